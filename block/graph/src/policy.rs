//! Which files an image's header may name as its backing file or data file.
//!
//! A header is only bytes, and a stranger may have written them: opened without a question, one
//! that names `/etc/shadow` would show that file to a guest. What is allowed stands in
//! `docs/BACKING-FILES.md`.

use std::{fs, path::Path, path::PathBuf};

use strata_storage::is_nbd_uri;

use super::Format;

/// Directories of the system, where no disk images are.
const SYSTEM_DIRECTORIES: [&str; 10] = [
    "/bin", "/boot", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr",
];

/// Says why the image `upper` may not have its backing file or data file, which `what` says, at
/// `path`, whose format it gives as `format`. `directories` are the ones that the user allows;
/// without them every regular file in an ordinary place is allowed. The image's own directory
/// always is, with those below it.
///
/// # Errors
/// Why not, and which option would allow it.
pub(super) fn check(
    upper: &Path,
    what: &str,
    path: &Path,
    format: Option<Format>,
    directories: Option<&[PathBuf]>,
) -> Result<(), String> {
    if is_nbd_uri(path) {
        let everything = |directories: &[PathBuf]| directories.iter().any(|f| f == Path::new("/"));
        if directories.is_none_or(everything) {
            return Ok(());
        }
        return Err(format!(
            "its {what} '{}' is on a server, and lies in none of the directories that \
             backing-folders allows; if it is meant, say backing-folders=/",
            path.display()
        ));
    }
    // A file that is not there is reported when it is opened.
    let Ok(real) = path.canonicalize() else {
        return Ok(());
    };
    // The root directory would stand for everything.
    let own = directory_of(upper);
    if own.is_some_and(|own| own != Path::new("/") && real.starts_with(own)) {
        return Ok(());
    }
    let why = match directories {
        Some(directories)
            if directories
                .iter()
                .any(|directory| lies_in(&real, directory)) =>
        {
            return Ok(());
        }
        Some(_) => "lies in none of the directories that backing-folders allows",
        None => match out_of_the_ordinary(&real, format) {
            Some(why) => why,
            None => return Ok(()),
        },
    };
    let directory = real.parent().unwrap_or(Path::new("/")).display();
    Err(format!(
        "its {what} '{}' {why}; if it is meant, say backing-folders={directory}",
        path.display()
    ))
}

/// The directory of an image, which is there or about to be made.
fn directory_of(image: &Path) -> Option<PathBuf> {
    if let Ok(real) = image.canonicalize() {
        return real.parent().map(Path::to_owned);
    }
    match image.parent()? {
        directory if directory.as_os_str().is_empty() => Path::new(".").canonicalize(),
        directory => directory.canonicalize(),
    }
    .ok()
}

fn lies_in(real: &Path, directory: &Path) -> bool {
    directory
        .canonicalize()
        .is_ok_and(|directory| real.starts_with(directory))
}

/// Why a file in another directory does not look like something to boot from.
fn out_of_the_ordinary(real: &Path, format: Option<Format>) -> Option<&'static str> {
    if SYSTEM_DIRECTORIES
        .iter()
        .any(|directory| real.starts_with(directory))
    {
        return Some("lies in a system directory");
    }
    let meta = fs::metadata(real).ok()?;
    if !meta.is_file() {
        return Some("is not a regular file");
    }
    // Other formats have a header that is checked; raw would show any file as it is. A file whose
    // format nobody has said is not opened as raw.
    let shows_all = format == Some(Format::Raw);
    (shows_all && !meta.len().is_multiple_of(512))
        .then_some("is no raw disk image: its length is not a multiple of 512")
}

#[cfg(test)]
mod tests;
