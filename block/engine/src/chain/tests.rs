use super::*;

/// A disk of 8 parts of 1 MiB on two layers; the lower one's second MiB is hidden.
fn chain() -> ChainInfo {
    const MIB: u64 = 1 << 20;
    let layer = |filename: &str, disk_size, data: [u64; 8], shown: [u64; 8], frees| ChainLayer {
        filename: filename.to_owned(),
        node_name: None,
        format: "qcow2".to_owned(),
        disk_size: Some(disk_size),
        data: data.iter().sum(),
        shown: shown.iter().sum(),
        frees,
        data_map: data.to_vec(),
        shown_map: shown.to_vec(),
    };
    let top = [0, MIB, 0, 0, 0, 0, 0, 65536];
    let (data, shown) = ([MIB, MIB, MIB, 0, 0, 0, 0, 0], [MIB, 0, MIB, 0, 0, 0, 0, 0]);
    ChainInfo {
        device: Some("root".to_owned()),
        virtual_size: 8 * MIB,
        part_size: MIB,
        layers: vec![
            layer("/images/monday.qcow2", MIB + 65536, top, top, None),
            layer(
                "base.qcow2",
                3 * MIB + 65536,
                data,
                shown,
                Some(MIB + 65536),
            ),
        ],
    }
}

#[test]
fn a_chain_is_drawn() {
    insta::assert_snapshot!(draw(&chain(), 36, false), @"
    root: 8 MiB, 2 layers, 4.12 MiB on disk
    ● /images/monday.qcow2 (qcow2)
    │   1.06 MiB on disk, 1.06 MiB of data, all shown
    │   ····████····················▄▄▄▄
    ● base.qcow2 (qcow2)
        3.06 MiB on disk, 3 MiB of data, 2 MiB shown, merging it frees 1.06 MiB
        ████▒▒▒▒████····················
    █ ▄ shown   ▒ hidden by a layer above   · nothing   a column is 256 KiB
    ");
}

#[test]
fn without_colour_there_are_no_escapes_and_with_it_nothing_else_differs() {
    let (plain, colour) = (draw(&chain(), 80, false), draw(&chain(), 80, true));
    assert!(!plain.contains('\x1b'));
    let mut stripped = String::new();
    let mut rest = &*colour;
    while let Some((before, after)) = rest.split_once('\x1b') {
        stripped += before;
        rest = after.split_once('m').unwrap().1;
    }
    assert_eq!(stripped + rest, plain);
    assert_ne!(colour, plain);
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let mut chain = chain();
    chain.layers[0].filename = "/a/long/way/".repeat(20);
    for width in [80, 100, 200] {
        for line in draw(&chain, width, false).lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}
