//! Made and written by us, read and written by QEMU's tools, and read by us again.

use crate::{
    matrix::{Case, half},
    support::*,
};

fn both_ways(case: &Case, seed: u64) {
    let folder = Folder::new();
    folder.create("strata-img", case, "");
    let written = with_image(&folder, {
        let case = *case;
        async move |node| {
            let size = node.size();
            let model = read(node, 0, size).await;
            scribble(node, &case, model, seed).await
        }
    });
    folder.check();
    assert!(
        folder.content(None) == written,
        "QEMU reads other bytes than we wrote"
    );
    folder.check_data(case, &written);
    if case.snapshot {
        folder.run("strata-img", &["snapshot", "-c", "one", IMAGE]);
    }
    if case.bitmap {
        folder.run("qemu-img", &["bitmap", "--add", IMAGE, "bits"]);
    }
    folder.qemu_io(&qemu_commands(case, case.size(), &mut Random(seed + 2000)));
    folder.check();
    we_go_on(&folder, case, seed + 1000);
}

#[test]
fn half_of_the_matrix() {
    half(0, both_ways);
}

#[test]
fn the_other_half() {
    half(1, both_ways);
}
