//! Which backing files an image gets, when it is made and later: those with which it opens again.

use crate::{Directory, read, text};

#[test]
fn a_base_that_would_not_be_opened_again_is_refused() {
    let directory = Directory::new();
    for name in ["here", "there"] {
        std::fs::create_dir(directory.path(name)).unwrap();
    }
    let run = tempfile::tempdir_in("/run").unwrap();
    let system = run.path().join("base");
    for path in [
        directory.path("here/odd"),
        directory.path("there/odd"),
        system.clone(),
    ] {
        std::fs::write(path, vec![7; 100_000]).unwrap();
    }
    directory.qemu(&["create", "-q", "there/even", "1M"]);
    let system = system.to_str().unwrap();
    for format in ["qcow2", "qed"] {
        let rebase = |more: &[&str], name: &str| {
            directory.qemu(&["create", "-q", "-f", format, "here/top", "1M"]);
            let before = read(&directory.path("here/top"));
            let args = ["rebase", "-f", format, "-F", "raw", "-b", name, "here/top"];
            let output = directory.run("strata-img", &[&args[..], more].concat());
            let changed = read(&directory.path("here/top")) != before;
            assert_eq!(output.status.success(), changed, "{output:?}");
            (changed, text(&output.stderr))
        };
        let opens = |more: &[&str]| {
            let args = ["info", "--backing-chain", "-f", format, "here/top"];
            let output = directory.run("strata-img", &[&args[..], more].concat());
            output.status.success()
        };
        for name in ["../there/odd", system] {
            let (changed, said) = rebase(&[], name);
            assert!(!changed, "{format} {name}");
            let names_it = said.contains(name) && said.contains("backing-folders=/");
            assert!(names_it && said.lines().count() == 1, "{said}");
            // Whoever says that it is meant says so of the next start, too.
            let directories = ["--backing-folders", "/"];
            assert!(rebase(&directories, name).0, "{format} {name}");
            assert!(opens(&directories) && !opens(&[]), "{format} {name}");
            // Who has only the header changed is not asked.
            assert!(rebase(&["-u"], name).0, "{format} {name}");
        }
        for name in ["odd", "../there/even"] {
            assert!(rebase(&[], name).0, "{format} {name}");
            assert!(opens(&[]), "{format} {name}");
        }
        let only_there = directory.path("there");
        let only_there = ["--backing-folders", only_there.to_str().unwrap()];
        assert!(rebase(&only_there, "../there/odd").0);
        assert!(!rebase(&only_there, system).0);
    }
}

#[test]
fn a_base_that_would_not_be_opened_is_refused_at_creation() {
    let directory = Directory::new();
    for name in ["here", "there"] {
        std::fs::create_dir(directory.path(name)).unwrap();
    }
    let run = tempfile::tempdir_in("/run").unwrap();
    let system = run.path().join("base");
    for path in [
        directory.path("here/odd"),
        directory.path("there/odd"),
        system.clone(),
    ] {
        std::fs::write(path, vec![7; 100_000]).unwrap();
    }
    directory.qemu(&["create", "-q", "there/even", "1M"]);
    // Shorter than whole sectors, but with a header.
    directory.qemu(&["create", "-q", "-f", "qcow2", "there/image", "1M"]);
    let image = read(&directory.path("there/image"));
    std::fs::write(directory.path("there/image"), [&image[..], &[0]].concat()).unwrap();
    std::fs::write(directory.path("source"), vec![5; 2 << 20]).unwrap();
    let system = system.to_str().unwrap();
    for (format, make) in [
        ("qcow2", "create -q -f qcow2 -F FMT -b BASE here/top"),
        ("qcow2", "create -q -f qcow2 -F FMT -b BASE file:here/top"),
        (
            "qcow2",
            "create -q -f qcow2 -o backing_fmt=FMT,backing_file=BASE here/top 1M",
        ),
        ("qed", "create -q -f qed -F FMT -b BASE here/top"),
        ("qcow2", "convert -O qcow2 -F FMT -B BASE source here/top"),
        ("qed", "convert -O qed -F FMT -B BASE source here/top"),
    ] {
        let make = |more: &[&str], base_format: &str, base: &str| {
            let _ = std::fs::remove_file(directory.path("here/top"));
            let line = make.replace("FMT", base_format).replace("BASE", base);
            let args: Vec<&str> = line.split(' ').collect();
            let output = directory.run("strata-img", &[&args[..], more].concat());
            let made = directory.path("here/top").exists();
            assert_eq!(output.status.success(), made, "{output:?}");
            (made, text(&output.stderr))
        };
        let opens = |more: &[&str]| {
            let args = ["info", "--backing-chain", "-f", format, "here/top"];
            let output = directory.run("strata-img", &[&args[..], more].concat());
            output.status.success()
        };
        for name in ["../there/odd", system] {
            let (made, said) = make(&[], "raw", name);
            assert!(!made, "{name}");
            let names_it = said.contains(name) && said.contains("backing-folders=/");
            assert!(names_it && said.lines().count() == 1, "{said}");
            let directories = ["--backing-folders", "/"];
            assert!(make(&directories, "raw", name).0, "{name}");
            assert!(opens(&directories) && !opens(&[]), "{name}");
        }
        for (base_format, name) in [
            ("raw", "odd"),
            ("raw", "../there/even"),
            ("qcow2", "../there/image"),
        ] {
            let (made, said) = make(&[], base_format, name);
            assert!(made, "{name}: {said}");
            assert!(opens(&[]), "{name}");
        }
        let only_there = directory.path("there");
        let only_there = ["--backing-folders", only_there.to_str().unwrap()];
        assert!(make(&only_there, "raw", "../there/odd").0);
        assert!(!make(&only_there, "raw", system).0);
    }
    // Who does not have the backing file looked at is not asked.
    let args = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b"];
    directory.ok(
        "strata-img",
        &[&args[..], &[system, "here/top", "1M"]].concat(),
    );
}
