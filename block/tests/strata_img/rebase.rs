//! Which backing files an image gets: those with which it opens again.

use crate::{Folder, read, text};

#[test]
fn a_base_that_would_not_be_opened_again_is_refused() {
    let folder = Folder::new();
    for name in ["here", "there"] {
        std::fs::create_dir(folder.path(name)).unwrap();
    }
    let run = tempfile::tempdir_in("/run").unwrap();
    let system = run.path().join("base");
    for path in [
        folder.path("here/odd"),
        folder.path("there/odd"),
        system.clone(),
    ] {
        std::fs::write(path, vec![7; 100_000]).unwrap();
    }
    folder.qemu(&["create", "-q", "there/even", "1M"]);
    let system = system.to_str().unwrap();
    for format in ["qcow2", "qed"] {
        let rebase = |more: &[&str], name: &str| {
            folder.qemu(&["create", "-q", "-f", format, "here/top", "1M"]);
            let before = read(&folder.path("here/top"));
            let args = ["rebase", "-f", format, "-F", "raw", "-b", name, "here/top"];
            let output = folder.run("strata-img", &[&args[..], more].concat());
            let changed = read(&folder.path("here/top")) != before;
            assert_eq!(output.status.success(), changed, "{output:?}");
            (changed, text(&output.stderr))
        };
        let opens = |more: &[&str]| {
            let args = ["info", "--backing-chain", "-f", format, "here/top"];
            let output = folder.run("strata-img", &[&args[..], more].concat());
            output.status.success()
        };
        for name in ["../there/odd", system] {
            let (changed, said) = rebase(&[], name);
            assert!(!changed, "{format} {name}");
            let names_it = said.contains(name) && said.contains("backing-folders=/");
            assert!(names_it && said.lines().count() == 1, "{said}");
            // Whoever says that it is meant says so of the next start, too.
            let folders = ["--backing-folders", "/"];
            assert!(rebase(&folders, name).0, "{format} {name}");
            assert!(opens(&folders) && !opens(&[]), "{format} {name}");
            // Who has only the header changed is not asked.
            assert!(rebase(&["-u"], name).0, "{format} {name}");
        }
        for name in ["odd", "../there/even"] {
            assert!(rebase(&[], name).0, "{format} {name}");
            assert!(opens(&[]), "{format} {name}");
        }
        let only_there = folder.path("there");
        let only_there = ["--backing-folders", only_there.to_str().unwrap()];
        assert!(rebase(&only_there, "../there/odd").0);
        assert!(!rebase(&only_there, system).0);
    }
}
