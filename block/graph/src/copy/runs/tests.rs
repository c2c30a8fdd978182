use strata_exec::mem::SgList;

use super::{Run, of};

fn runs(bytes: &[u8], offset: u64, sparse: u64) -> Vec<(usize, usize, bool)> {
    let runs = of(&SgList::from_vec(bytes.to_vec()), offset, sparse);
    runs.iter()
        .map(|Run { start, len, zero }| (*start, *len, *zero))
        .collect()
}

#[test]
fn zeros_are_found_in_blocks() {
    let mut bytes = vec![0; 8192];
    assert_eq!(runs(&bytes, 0, 512), [(0, 8192, true)]);
    assert_eq!(runs(&bytes, 0, 0), [(0, 8192, false)]);
    bytes[1023] = 1;
    let expected = [(0, 512, true), (512, 512, false), (1024, 7168, true)];
    assert_eq!(runs(&bytes, 0, 512), expected);
    assert_eq!(
        runs(&bytes, 0, 4096),
        [(0, 4096, false), (4096, 4096, true)]
    );
    bytes[8191] = 1;
    assert_eq!(runs(&bytes, 0, 4096), [(0, 8192, false)]);
}

#[test]
fn few_zeros_count_as_data() {
    let mut bytes = vec![0; 4096];
    bytes[1535] = 1;
    // 1024 zeros, a block of data, 2560 zeros.
    assert_eq!(
        runs(&bytes, 0, 1536),
        [(0, 1024, true), (1024, 1024, false), (2048, 2048, true)]
    );
    // More zeros may follow.
    assert_eq!(
        runs(&bytes, 0, 2560),
        [(0, 2048, false), (2048, 2048, true)]
    );
    // Between data they are too few.
    bytes[0] = 1;
    assert_eq!(
        runs(&bytes, 0, 1536),
        [(0, 2048, false), (2048, 2048, true)]
    );
    bytes[4095] = 1;
    assert_eq!(runs(&bytes, 0, 2560), [(0, 4096, false)]);
    // As if the rest were zeros, too: a piece that is all there is.
    assert_eq!(runs(&[0; 1024], 0, 4096), [(0, 1024, true)]);
}

#[test]
fn blocks_are_those_of_the_disk() {
    let bytes = vec![0; 4096];
    let mut bytes = [&bytes[..], &bytes].concat();
    bytes[0] = 1;
    // The first block ends at 4096 of the disk.
    assert_eq!(
        runs(&bytes, 3584, 4096),
        [(0, 512, false), (512, 7680, true)]
    );
}
