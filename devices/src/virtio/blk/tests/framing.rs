//! Any way to cut a request into descriptors means the same (2.7.4.2).

use proptest::{collection::vec, prelude::*};
use virtio_bindings::virtio_blk::*;

use super::driver::*;

/// A run of bytes cut at `cuts`, each piece at a place of its own; places are a page apart.
fn cut(first_page: u64, len: u32, cuts: &[u32], flags: u16) -> Vec<(u64, u32, u16)> {
    let mut bounds: Vec<u32> = cuts.iter().map(|cut| cut % (len + 1)).collect();
    bounds.extend([0, len]);
    bounds.sort_unstable();
    bounds
        .windows(2)
        .zip(first_page..)
        .map(|(ends, page)| (DATA + page * 0x1000 + page % 7, ends[1] - ends[0], flags))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn cuts_do_not_matter(
        out_cuts in vec(any::<u32>(), 0..12),
        in_cuts in vec(any::<u32>(), 0..12),
        blocks in 1..4u32,
        sector in 0..64u64,
        indirect in any::<bool>(),
    ) {
        let mut driver = Driver::new();
        let len = blocks * 512;
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();

        // Out: header and data are one run of bytes.
        let mut run = VIRTIO_BLK_T_OUT.to_le_bytes().to_vec();
        run.extend([0; 4]);
        run.extend(sector.to_le_bytes());
        run.extend(&bytes);
        let mut pieces = cut(0, run.len() as u32, &out_cuts, 0);
        let mut at = 0;
        for &(address, len, _) in &pieces {
            driver.put(address, &run[at..at + len as usize]);
            at += len as usize;
        }
        pieces.push((STATUS, 1, WRITE));
        run_pieces(&mut driver, &pieces, indirect);
        let start = sector as usize * 512;
        prop_assert_eq!(&driver.disk.bytes.borrow()[start..start + len as usize], &bytes[..]);

        // In: data and status byte are one run of bytes.
        driver.header(VIRTIO_BLK_T_IN, sector);
        let answer = cut(32, len + 1, &in_cuts, WRITE);
        let mut pieces = vec![(HEADER, 16, 0)];
        pieces.extend(&answer);
        run_pieces(&mut driver, &pieces, indirect);
        let mut got = Vec::new();
        for &(address, len, _) in &answer {
            got.extend((0..u64::from(len)).map(|i| driver.get::<1>(address + i)[0]));
        }
        let mut expected = bytes;
        expected.push(VIRTIO_BLK_S_OK as u8);
        prop_assert_eq!(got, expected);
    }
}

fn run_pieces(driver: &mut Driver, pieces: &[(u64, u32, u16)], indirect: bool) {
    driver.chain(0, pieces);
    if indirect {
        let table: [u8; 64 * 16] = driver.get(DESC);
        driver.put(TABLE, &table);
        driver.describe(0, &[Desc(TABLE, pieces.len() as u32 * 16, INDIRECT, 0)]);
    }
    driver.run_chain();
}
