//! What changes images as a whole: snapshots that are made, applied and deleted, resizes, repairs,
//! bitmaps that come and go, emptying; with requests in between. The input says what is done, and
//! holds an image, or says what the tables of one hold.

mod shown;
mod step;

use std::collections::HashMap;

use strata_format::check::Repair;
use strata_storage::Storage;

use super::{
    image::Image,
    support::{Files, block_on, files},
    tables,
};
use shown::Shown;
use step::{BYTES, Step};

/// Operations at most.
const MAX_STEPS: usize = 24;

/// Bytes of an image: less than elsewhere, as every operation may walk all of it.
const MAX_IMAGE: usize = 64 << 10;

/// Bytes that an image grows by at most, in the room that there is.
const MAX_GROWTH: u64 = 15 << 20;

/// Writes, flushes and length changes that one operation may take.
const MAX_CHANGES: u64 = 100_000;

/// How often the same operations are done to an image at last.
const ROUNDS: usize = 8;

/// After so many rounds a file is about as long as it will ever be.
const FIRST_ROUNDS: usize = 3;

/// Clusters that it grows by later at most: less than one in each round.
const MORE_CLUSTERS: u64 = 4;

/// Carries the operations out.
pub fn run(input: &[u8]) {
    let Some((&count, rest)) = input.split_first() else {
        return;
    };
    let len = (usize::from(count) % MAX_STEPS + 1) * BYTES;
    let Some((steps, rest)) = rest.split_at_checked(len) else {
        return;
    };
    let is_image = rest.starts_with(b"QFI\xfb") || rest.starts_with(b"QED\0");
    let image = if is_image {
        Some(rest[..rest.len().min(MAX_IMAGE)].to_vec())
    } else {
        tables::build(rest)
    };
    let Some(image) = image else { return };
    let (steps, _) = steps.as_chunks::<BYTES>();
    let steps: Vec<Step> = steps.iter().map(Step::parse).collect();
    block_on(async move { play(&image, &steps).await });
}

/// What is known of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// Its check finds that it is corrupt: anything may happen to it, and to us nothing.
    Broken,
    /// It may have lost space, as an operation has failed.
    Sound,
    /// Its check finds nothing.
    Clean,
}

/// An image under test.
struct Subject {
    files: Files,
    image: Image,
    state: State,
    /// What the disk shows, as far as it is known.
    shown: Shown,
    /// What our snapshots keep, by id.
    kept: HashMap<String, Shown>,
}

async fn play(bytes: &[u8], steps: &[Step]) {
    let files = files(bytes);
    let state = judge(&files).await;
    let Ok(image) = Image::open(&files, false).await else {
        return;
    };
    let mut subject = Subject {
        files,
        image,
        state,
        shown: Shown::default(),
        kept: HashMap::new(),
    };
    for step in steps {
        let before = subject.files.image.changes();
        let went_on = match *step {
            Step::Reopen => subject.reopen().await,
            Step::Repair(what) => subject.repair(what).await,
            _ => {
                subject.carry_out(step).await;
                true
            }
        };
        let changes = subject.files.image.changes() - before;
        assert!(changes < MAX_CHANGES, "{step:?} makes {changes} changes");
        if !went_on {
            return;
        }
    }
    if subject.reopen().await && subject.state == State::Clean {
        subject.grows_no_more().await;
    }
}

/// Checks an image at rest. No check looks at refcounts behind the end of the file, which are leaks
/// once it grows: so the file is looked at when it is longer, too.
async fn judge(now: &Files) -> State {
    let longer = Files {
        data: now.data.clone(),
        ..files(&now.image.bytes())
    };
    let file = Storage::Sim(longer.image.clone());
    let grown = file.set_len(file.len() + MAX_GROWTH).await;
    grown.expect("there is room for that");
    check(now).await.min(check(&longer).await)
}

async fn check(files: &Files) -> State {
    let Ok(image) = Image::open(files, true).await else {
        return State::Broken;
    };
    match image.check().await {
        Ok(report) if report.is_clean() && !image.is_dirty() => State::Clean,
        Ok(report) if report.corruptions == 0 && report.check_errors == 0 => State::Sound,
        _ => State::Broken,
    }
}

impl Subject {
    /// Closes the image and opens it again: one that was sound is sound, and shows and holds what
    /// it did. Returns whether it could be opened.
    async fn reopen(&mut self) -> bool {
        let bitmaps = self.image.describe_bitmaps();
        let closed = self.image.close().await;
        if closed.is_err() {
            self.state = self.state.min(State::Sound);
        }
        // One that could not be closed has its refcounts counted when it is opened.
        let found = judge(&self.files).await;
        let again = Image::open(&self.files, false).await;
        if self.state != State::Broken && closed.is_ok() {
            assert!(found >= self.state, "{:?} has become {found:?}", self.state);
            assert!(again.is_ok(), "cannot be opened: {:?}", again.err());
        }
        let Ok(image) = again else { return false };
        self.image = image;
        if self.state != State::Broken {
            self.shown.compare(&self.image).await;
            if closed.is_ok() {
                assert_eq!(self.image.describe_bitmaps(), bitmaps);
            }
        }
        true
    }

    /// Repairs the image. One that is sound shows what it did; one that nothing is wrong with
    /// afterwards is so.
    async fn repair(&mut self, what: Repair) -> bool {
        if self.image.close().await.is_err() {
            self.state = self.state.min(State::Sound);
        }
        let Ok(image) = Image::open(&self.files, true).await else {
            return false;
        };
        if let Ok(report) = image.repair(what).await {
            let right = report.corruptions == 0 && report.check_errors == 0;
            let found = judge(&self.files).await;
            if right && what == Repair::All {
                let again = check(&self.files).await;
                assert_ne!(again, State::Broken, "after a repair: {report:?}");
            }
            if self.state != State::Broken {
                assert!(right, "a repair says of a sound image: {report:?}");
                assert!(found >= self.state, "a repair has made it {found:?}");
            }
            self.state = found;
        }
        match Image::open(&self.files, false).await {
            Ok(image) => self.image = image,
            Err(error) => {
                assert_eq!(self.state, State::Broken, "cannot be opened: {error}");
                return false;
            }
        }
        if self.state != State::Broken {
            self.shown.compare(&self.image).await;
        }
        true
    }

    /// What has come to an end takes no space: the same again and again leaves a file that does not
    /// grow.
    async fn grows_no_more(&mut self) {
        let (file, cluster) = (self.files.image.clone(), self.image.cluster_size());
        let mut longest = 0;
        for round in 0..ROUNDS {
            for step in Step::round() {
                self.carry_out(&step).await;
            }
            if self.image.close().await.is_err() || self.state != State::Clean {
                return; // There was no room.
            }
            let len = file.bytes().len() as u64;
            if round < FIRST_ROUNDS {
                longest = longest.max(len + MORE_CLUSTERS * cluster);
            }
            assert!(len <= longest, "round {round}: {len} bytes");
        }
        self.reopen().await;
    }

    /// Notes that an operation has failed.
    fn failed(&mut self) {
        self.state = self.state.min(State::Sound);
    }
}
