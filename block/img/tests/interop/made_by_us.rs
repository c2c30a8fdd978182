//! Made and written by us, read and written by QEMU's tools, and read by us again.

use crate::{
    matrix::{Case, half},
    support::*,
};

fn both_ways(case: &Case, seed: u64) {
    let directory = Directory::new();
    directory.create("strata-img", case, "");
    let written = with_image(&directory, {
        let case = *case;
        async move |node| {
            let size = node.size();
            let model = read(node, 0, size).await;
            scribble(node, &case, model, seed).await
        }
    });
    directory.check();
    assert!(
        directory.content(None) == written,
        "QEMU reads other bytes than we wrote"
    );
    directory.check_data(case, &written);
    if case.snapshot {
        directory.run("strata-img", &["snapshot", "-c", "one", IMAGE]);
    }
    if case.bitmap {
        directory.run("qemu-img", &["bitmap", "--add", IMAGE, "bits"]);
    }
    directory.qemu_io(&qemu_commands(case, case.size(), &mut Random(seed + 2000)));
    directory.check();
    we_go_on(&directory, case, seed + 1000);
}

#[test]
fn half_of_the_matrix() {
    half(0, both_ways);
}

#[test]
fn the_other_half() {
    half(1, both_ways);
}
