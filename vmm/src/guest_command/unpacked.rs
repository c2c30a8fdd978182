//! Modules as the kernel takes them from everybody: what a distribution has compressed is unpacked.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Bytes of a module at most: the largest of a distribution have some ten million.
const LONGEST: u64 = 256 << 20;

/// The module in a file, which is compressed if its name ends so.
///
/// # Errors
/// The host's; it is not what its name says, or longer than modules are.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let ending = path.extension().unwrap_or_default();
    match ending.to_str() {
        Some("xz") => all(lzma_rust2::XzReader::new(file, true)),
        Some("zst") => all(zstd::Decoder::new(file)?),
        Some("gz") => all(flate2::read::MultiGzDecoder::new(file)),
        _ => all(file),
    }
}

/// The name without the ending of a compressed one.
pub fn name(path: &Path) -> &Path {
    let compressed = ["xz", "zst", "gz"];
    let ending = path.extension().and_then(|ending| ending.to_str());
    let name = if ending.is_some_and(|ending| compressed.contains(&ending)) {
        path.file_stem()
    } else {
        path.file_name()
    };
    Path::new(name.unwrap_or_default())
}

fn all(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = source.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if read as u64 > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
