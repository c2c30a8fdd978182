//! Which layer of a chain a name means, and whether a name in a header would mean the layer that is
//! meant.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf, absolute},
    rc::Rc,
};

use strata_format::{backing::Backing, qcow2::Qcow2};
use strata_storage::{
    Files, Identity, absolute_name,
    error::{Error, Result},
    is_nbd_uri, is_unnamed,
};

use super::{
    Format, Node,
    chain::{self, ImageOptions},
    spec::ImageSpec,
};

/// Why a name means no layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchLayer {
    /// None has it.
    #[error("Can't find '{0}' in the backing chain")]
    Unknown(String),
    /// Several have the last component.
    #[error("'{0}' names several layers of the backing chain: give the whole path")]
    Ambiguous(String),
}

/// The layer below `top` that `name` means. In this order: what a header of the chain calls it,
/// word for word; a name of its file, from the directory of an image above it (as a header would
/// say it) or from the working directory; its node name; the last component of its path, with or
/// without what comes after the dot, where only one layer has that.
///
/// # Errors
/// There is none, or more than one.
pub fn named_layer(
    top: &Rc<Node>,
    name: impl AsRef<OsStr>,
) -> std::result::Result<Rc<Node>, NoSuchLayer> {
    let name = name.as_ref();
    let layers: Vec<_> = top.chain().collect();
    let pairs = || layers.iter().zip(&layers[1..]);
    let written = pairs().find(|(upper, _)| {
        let named = upper.image().backing_name();
        named.is_some_and(|backing| backing.name == name)
    });
    if let Some((_, layer)) = written {
        return Ok(layer.clone());
    }
    let plain = Backing {
        name: name.to_owned(),
        format: None,
    };
    let from_directory = |upper: &Path| chain::resolve(upper, &plain).ok();
    // Every layer above may be the one whose directory is meant: the nearest first.
    let by_directory = pairs().find(|(upper, layer)| {
        from_directory(upper.path()).is_some_and(|path| leads_to(&path, layer))
    });
    let from_others = layers
        .iter()
        .filter_map(|upper| from_directory(upper.path()));
    let here = from_directory(Path::new("image"));
    let mut elsewhere = from_others.chain(here);
    let by_file =
        || elsewhere.find_map(|path| layers[1..].iter().find(|layer| leads_to(&path, layer)));
    let by_name = || layers[1..].iter().find(|layer| name == layer.name());
    let exact = by_directory.map(|(_, layer)| layer).or_else(by_file);
    if let Some(layer) = exact.or_else(by_name) {
        return Ok(layer.clone());
    }
    let mut alike = layers[1..].iter().filter(|layer| {
        let path = layer.path();
        path.file_name().is_some_and(|n| n == name) || path.file_stem().is_some_and(|n| n == name)
    });
    let shown = || name.display().to_string();
    match (alike.next(), alike.next()) {
        (Some(layer), None) => Ok(layer.clone()),
        (Some(_), Some(_)) => Err(NoSuchLayer::Ambiguous(shown())),
        _ => Err(NoSuchLayer::Unknown(shown())),
    }
}

/// Whether `path` is the layer's path, or leads to the file that the layer has open.
fn leads_to(path: &Path, layer: &Node) -> bool {
    let same_path = absolute_name(path) == absolute_name(layer.path());
    let same_file = || {
        let file = Identity::of(path).ok();
        file.is_some() && file == layer.image().storage().identity().ok()
    };
    same_path || same_file()
}

/// How the header of `top` will name `base`, a layer below it: as the layer above the base has it,
/// where that means the same from the top's directory, or else by its absolute path.
pub fn name_for(top: &Rc<Node>, base: &Rc<Node>) -> Backing {
    let above = top
        .chain()
        .find(|node| node.backing().is_some_and(|b| Rc::ptr_eq(&b, base)));
    let written = above.and_then(|above| {
        let same_directory = directory(above.path()) == directory(top.path());
        let name = above.image().backing_name()?.name;
        let anywhere = Path::new(&name).is_absolute() || is_nbd_uri(Path::new(&name));
        (same_directory || anywhere).then_some(name)
    });
    Backing {
        name: written.unwrap_or_else(|| absolute_name(base.path()).into_os_string()),
        format: Some(base.format().to_string()),
    }
}

/// The directory that a relative name in an image is relative to.
fn directory(image: &Path) -> Option<PathBuf> {
    let directory = absolute(image).ok()?;
    let directory = directory.parent()?;
    Some(
        directory
            .canonicalize()
            .unwrap_or_else(|_| directory.to_owned()),
    )
}

/// Refuses a header that is to lie on an overlay without a name but leads anywhere: the chain does
/// not open again anyway, and must not seem to.
fn check_unnamed(backing: &Backing, layer: &Node) -> std::result::Result<(), String> {
    if Path::new(&backing.name) == layer.path() {
        return Ok(());
    }
    Err(format!(
        "its header names '{}', but the disk lies on a temporary overlay, which has no name: only a \
         new overlay can be put on it",
        backing.name.display()
    ))
}

/// Refuses a layer that a header above it would open otherwise than it is open: without the backing
/// file that its own header names, or with another external data file.
fn check_opens_alike(files: &Files, layer: &Node) -> std::result::Result<(), String> {
    let live = absolute_name(layer.path());
    let live = live.display();
    let below = layer.image().backing_name();
    if let Some(below) = below.filter(|_| layer.backing().is_none()) {
        return Err(format!(
            "'{live}' names the backing file '{}', which was not opened with it: put it on that \
             first, with blockdev-snapshot",
            below.name.display()
        ));
    }
    let image = layer.image();
    let Some(data) = image.as_qcow2().and_then(Qcow2::data_file) else {
        return Ok(());
    };
    let path = chain::resolve_data_file(layer.path(), &data.name).map_err(|e| e.to_string())?;
    let named = files.identity(&path).ok();
    if named.is_some() && named == image.data_storage().identity().ok() {
        return Ok(());
    }
    let open = absolute_name(image.data_storage().path());
    Err(format!(
        "the header of '{live}' names the data file '{}', and that is not the one which is open, \
         '{}': without data-file= nobody would find that again",
        data.name.display(),
        open.display()
    ))
}

/// Refuses `backing`, as the header of the image `upper` says it or is to say it, if the chain
/// would not open again as it is: what it names is not the file that `layer` has open, or may not
/// be opened with `options`, those of the disk. What lies on an overlay without a name does not
/// open again until that has been copied; its header says so to everybody.
///
/// # Errors
/// One line on why not.
pub fn check_leads_to(
    files: &Files,
    (upper, upper_format): (&Path, Format),
    backing: Option<&Backing>,
    layer: &Node,
    options: &ImageOptions,
) -> Result<()> {
    let refused = |why| Error::Image {
        file: upper.to_owned(),
        why,
    };
    let (live, format) = (absolute_name(layer.path()), layer.format());
    let live = live.display();
    let remedy = format!("say it with 'strata-img rebase -u -b {live} -F {format}'");
    check_opens_alike(files, layer).map_err(refused)?;
    let Some(backing) = backing else {
        let why = format!("its header names no backing file, and not '{live}': {remedy}");
        return Err(refused(why));
    };
    if is_unnamed(layer.path()) {
        return check_unnamed(backing, layer).map_err(refused);
    }
    let path = chain::resolve(upper, backing)?;
    let named = files.identity(&path).ok();
    if named.is_none() || named != layer.image().storage().identity().ok() {
        let name = backing.name.display();
        return Err(refused(
            if absolute_name(&path) == absolute_name(layer.path()) {
                format!(
                    "its backing file would be '{name}', and that is not the file which the disk has \
                 open: it has been renamed or replaced; put it back first"
                )
            } else {
                format!(
                    "the name '{name}' of its backing file does not lead to '{live}', which the disk \
                 has open: {remedy}"
                )
            },
        ));
    }
    // A QED header has a mark for raw only: other formats are recognised.
    let marked = |said: &String| upper_format != Format::Qed || said == Format::Raw.name();
    let backing = Backing {
        name: backing.name.clone(),
        format: backing.format.clone().filter(marked),
    };
    let recognised = upper_format == Format::Qed && format != Format::Raw;
    let in_name = || ImageSpec::from_name(Path::new(&backing.name)).ok()?.format;
    let found = match &backing.format {
        Some(said) => said.parse().ok(),
        None => in_name()
            .or(options.backing_format)
            .or(recognised.then_some(format)),
    };
    if found != Some(format) {
        let why = format!("its header does not say that '{live}' is {format}: {remedy}");
        return Err(refused(why));
    }
    chain::check_policy(upper, &path, &backing, options)
}
