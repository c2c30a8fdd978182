//! Headers and header extensions: the input is how a file starts, zeros follow.

use strata_format::backing::Backing;

use super::{
    image::Image,
    support::{Files, block_on, files},
};

/// Bytes of the input that are looked at: the largest cluster that is worth it.
const MAX_HEADER: usize = 64 << 10;

/// Bytes of zeros behind them: empty tables.
const BEHIND: usize = 256 << 10;

/// Opens an image with this header, describes it, and edits the header where it can be written.
pub fn run(input: &[u8]) {
    let mut bytes = input[..input.len().min(MAX_HEADER)].to_vec();
    bytes.resize(bytes.len() + BEHIND, 0);
    block_on(async move {
        describe(&files(&bytes)).await;
        edit(&files(&bytes)).await;
    });
}

async fn describe(files: &Files) {
    let Ok(image) = Image::open(files, true).await else {
        return;
    };
    let before = files.image.bytes();
    if let Image::Qcow2(image) = &image {
        image.format_specific();
        image.writing_refused();
        image.is_dirty();
    }
    if image.size() > 0 {
        // Any answer will do.
        let _ = image.extent(image.size() - 1, 1).await;
    }
    assert!(
        files.image.bytes() == before,
        "reading has changed the file"
    );
}

/// What the header is made to say, it says when it is read again.
async fn edit(files: &Files) {
    let Ok(image) = Image::open(files, false).await else {
        return;
    };
    let size = image.size();
    for backing in [
        named("base", "raw"),
        named(&"long/".repeat(180), "raw"),
        None,
    ] {
        if image.set_backing(backing.clone()).await.is_err() {
            continue;
        }
        let again = Image::open(files, true).await;
        let again = again.unwrap_or_else(|error| panic!("after a header edit: {error}"));
        assert_eq!(again.backing(), backing);
        assert_eq!(again.size(), size);
    }
}

fn named(name: &str, format: &str) -> Option<Backing> {
    Some(Backing {
        name: name.into(),
        format: Some(format.to_owned()),
    })
}
