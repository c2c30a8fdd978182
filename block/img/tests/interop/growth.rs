//! The same requests, carried out by QEMU and by us: our file takes no more space than QEMU's.

use crate::{
    matrix::{Case, PLAIN},
    requests::Request,
    support::*,
};

/// Requests between two snapshots, each followed by a flush.
const REQUESTS: usize = 25;

/// Snapshots that are made, and deleted after the requests that follow.
const ROUNDS: usize = 2;

/// What an image takes.
#[derive(Debug)]
struct Space {
    /// Clusters with a refcount.
    clusters: usize,
    /// Bytes of the file.
    len: u64,
}

impl Space {
    /// Of an image whose refcounts have 16 bits.
    fn of(directory: &Directory) -> Self {
        let image = std::fs::read(directory.path(IMAGE)).unwrap();
        let word = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap()) as usize;
        let cluster = 1 << image[23];
        // The table's place, and its clusters in the lower half.
        let (table, len) = (word(48), (word(52) & 0xffff_ffff) * cluster);
        let blocks = (table..table + len).step_by(8).map(word);
        let counts = blocks
            .filter(|block| *block > 0)
            .flat_map(|block| image[block..block + cluster].chunks(2));
        Self {
            clusters: counts.filter(|count| **count != [0, 0]).count(),
            len: image.len() as u64,
        }
    }
}

/// Carries requests out, each made durable.
fn carry_out(directory: &Directory, requests: &[Request], ours: bool) {
    if ours {
        let requests = requests.to_vec();
        with_image(directory, async move |node| {
            for request in requests {
                request.carry_out(node).await;
                node.flush().await.unwrap();
            }
        });
    } else {
        let one = |request: &Request| [request.commands(), vec!["flush".to_owned()]].concat();
        let commands: Vec<_> = requests.iter().flat_map(one).collect();
        directory.qemu_io(&commands);
    }
}

/// What an image takes after one side alone has used it.
fn used_by(ours: bool, case: &Case, seed: u64) -> Space {
    let program = ["qemu-img", "strata-img"][usize::from(ours)];
    let directory = Directory::new();
    directory.create("qemu-img", case, "");
    let mut random = Random(seed);
    for _ in 0..ROUNDS {
        let mut requests = || Request::several(REQUESTS, case, case.size(), &mut random);
        let (before, after) = (requests(), requests());
        carry_out(&directory, &before, ours);
        if case.snapshot {
            directory.run(program, &["snapshot", "-c", "one", IMAGE]);
        }
        carry_out(&directory, &after, ours);
        if case.snapshot {
            directory.run(program, &["snapshot", "-d", "one", IMAGE]);
        }
    }
    directory.check();
    Space::of(&directory)
}

#[test]
fn our_file_takes_no_more_space_than_that_of_qemu() {
    let cluster = |cluster| Case { cluster, ..PLAIN };
    let cases = [
        PLAIN,
        cluster(512),
        cluster(4096),
        cluster(1 << 20),
        Case {
            version: 2,
            backing: true,
            ..cluster(16384)
        },
        Case {
            extended_l2: true,
            ..cluster(16384)
        },
        Case {
            extended_l2: true,
            backing: true,
            snapshot: true,
            ..PLAIN
        },
        Case {
            compressed: Some("zlib"),
            ..cluster(4096)
        },
        Case {
            compressed: Some("zstd"),
            snapshot: true,
            ..PLAIN
        },
        Case {
            lazy: true,
            snapshot: true,
            ..cluster(2048)
        },
        Case {
            data_file: Some(false),
            ..cluster(4096)
        },
    ];
    for (seed, case) in cases.iter().enumerate() {
        let theirs = used_by(false, case, seed as u64);
        let ours = used_by(true, case, seed as u64);
        // A cluster that compressed ones share is in use as long as any of them is: which they are
        // differs.
        let more = if case.compressed.is_some() { 3 } else { 0 };
        let slack = 4 * case.cluster;
        assert!(
            ours.clusters <= theirs.clusters + more && ours.len <= theirs.len + slack,
            "{case:?}: {ours:?}, QEMU's {theirs:?}"
        );
    }
}
