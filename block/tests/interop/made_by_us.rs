//! Made and written by us, read and written by QEMU's tools, and read by us again.

use crate::{
    matrix::{Case, cases},
    support::*,
};

/// A new image, which shows what lies below it.
fn make(case: &Case) -> Folder {
    let folder = Folder::new();
    folder.make_base(case);
    let (size, options) = (case.size().to_string(), case.options());
    let mut args = vec!["create", "-f", "qcow2", "-o", &options];
    if case.backing {
        args.extend(["-b", "base.raw", "-F", "raw"]);
    }
    args.extend([IMAGE, &size]);
    folder.strata_img(&args);
    folder
}

fn run(part: usize) {
    for (n, case) in cases()
        .into_iter()
        .enumerate()
        .filter(|(n, _)| n % 2 == part)
    {
        println!("{n}: {case:?}");
        let seed = n as u64;
        let folder = make(&case);
        let written = with_image(&folder, async move |node| {
            let size = node.size();
            let model = read(node, 0, size).await;
            scribble(node, &case, model, seed).await
        });
        folder.check();
        assert!(
            folder.content(None) == written,
            "QEMU reads other bytes than we wrote"
        );
        if case.snapshot {
            folder.run("qemu-img", &["snapshot", "-c", "one", IMAGE]);
        }
        if case.bitmap {
            folder.run("qemu-img", &["bitmap", "--add", IMAGE, "bits"]);
        }
        folder.qemu_io(&qemu_commands(&case, &mut Random(seed + 2000)));
        folder.check();
        we_go_on(&folder, &case, seed + 1000);
    }
}

#[test]
fn half_of_the_matrix() {
    run(0);
}

#[test]
fn the_other_half() {
    run(1);
}
