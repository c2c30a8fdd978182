//! Whole images: the input is a file.

use strata_format::below::Nothing;

use super::{
    image::Image,
    support::{Files, MAX_IMAGE, block_on, files, pattern},
};

/// Extents that are looked at, at most.
const MAX_EXTENTS: usize = 512;

/// Bytes that are read, at most.
const MAX_READ: u64 = 4 << 20;

/// Bytes that are written at one place.
const WRITE: u64 = 1 << 10;

/// Uses the image as a reader and as a writer do.
pub fn run(input: &[u8]) {
    let bytes = input[..input.len().min(MAX_IMAGE)].to_vec();
    block_on(async move { exercise(&bytes).await });
}

/// Walks, reads and checks an image; then writes to it. One that was sound is sound afterwards, and
/// holds what was written.
pub async fn exercise(bytes: &[u8]) {
    let sound = look_at(&files(bytes)).await;
    let files = files(bytes);
    let written = change(&files, sound).await;
    if sound && let Some(written) = written {
        verify(&files, written).await;
    }
    shrink(bytes, sound).await;
}

/// Shortens the disk to a third, and makes it longer again.
async fn shrink(bytes: &[u8], sound: bool) {
    let files = files(bytes);
    let Ok(image) = Image::open(&files, false).await else {
        return;
    };
    let size = image.size();
    let shorter = size / 3 / 512 * 512;
    let shrunk = image.resize(shorter, &Nothing).await;
    let longer = shorter.saturating_add(2 * image.cluster_size());
    let grown = image.resize(longer, &Nothing).await;
    let closed = image.close().await;
    if sound && shrunk.is_ok() && grown.is_ok() && closed.is_ok() {
        verify(&files, vec![(shorter, vec![0; WRITE as usize])]).await;
    }
}

/// Whether the image passes its check.
async fn look_at(files: &Files) -> bool {
    let Ok(image) = Image::open(files, true).await else {
        return false;
    };
    let (before, size) = (files.image.bytes(), image.size());
    let (mut at, mut read) = (0, 0);
    for _ in 0..MAX_EXTENTS {
        if at >= size {
            break;
        }
        match image.extent(at, size - at).await {
            Ok(extent) => {
                let len = extent.len.min(MAX_READ - read);
                read += len;
                let _ = image.read(at, len as usize, &Nothing).await;
                at += extent.len;
            }
            Err(_) => at += image.cluster_size().min(size - at),
        }
    }
    let sound = is_sound(&image).await;
    assert!(
        files.image.bytes() == before && files.data.bytes().is_empty(),
        "reading has changed a file"
    );
    sound
}

async fn is_sound(image: &Image) -> bool {
    let report = image.check().await;
    report.is_ok_and(|report| report.corruptions == 0 && report.check_errors == 0)
}

/// Writes here and there, and closes the image. What was written and should be found again.
async fn change(files: &Files, sound: bool) -> Option<Vec<(u64, Vec<u8>)>> {
    let image = Image::open(files, false).await.ok()?;
    let (size, cluster) = (image.size(), image.cluster_size());
    let mut written = Vec::new();
    // Three places that do not touch each other, where the disk has them.
    let places = [0, size / 2, size.saturating_sub(WRITE)];
    for (n, at) in places.into_iter().enumerate() {
        let at = at - at % 512;
        let len = WRITE.min(size - at);
        let bytes = pattern(at, len as usize, 0xa0 + n as u8);
        let end = written
            .last()
            .map_or(0, |(at, bytes): &(u64, Vec<u8>)| at + bytes.len() as u64);
        if at < end || len == 0 {
            continue;
        }
        match image.write(at, bytes.clone(), &Nothing).await {
            Ok(()) => written.push((at, bytes)),
            Err(_) if sound => return None,
            Err(_) => {}
        }
    }
    // Behind the first of them, and not on the others.
    let (from, to) = (WRITE, (size / 2).saturating_sub(cluster));
    if from < to {
        let len = (to - from).min(8 * cluster);
        let _ = image.write_zeroes(from, len / 2, true, &Nothing).await;
        let _ = image
            .write_zeroes(from + len / 2, len / 4, false, &Nothing)
            .await;
        let _ = image.discard(from + len / 2, len - len / 2, &Nothing).await;
    }
    let _ = image.flush().await;
    image.close().await.ok().map(|()| written)
}

async fn verify(files: &Files, written: Vec<(u64, Vec<u8>)>) {
    let image = Image::open(files, true).await;
    let image = image.unwrap_or_else(|error| panic!("after writing: {error}"));
    for (at, bytes) in written {
        let found = image.read(at, bytes.len(), &Nothing).await;
        assert!(found.expect("readable") == bytes, "lost a write at {at}");
    }
    let report = image.check().await.expect("checkable");
    assert_eq!(
        (report.corruptions, report.check_errors),
        (0, 0),
        "{:?}",
        report.lines
    );
}
