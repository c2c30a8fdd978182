//! `bench`: lines, errors, and what it writes. Not how fast it is.

use crate::{Directory, read, text};

/// Exit code, what was printed with the time made `T`, and what was said.
fn run(directory: &Directory, program: &str, args: &str) -> (Option<i32>, String, String) {
    let args: Vec<&str> = ["bench"].into_iter().chain(args.split(' ')).collect();
    let output = directory.run(program, &args);
    let printed = text(&output.stdout);
    let lines = printed.lines().map(|line| match line.split_once(" in ") {
        Some((start, rest)) if start == "Run completed" => {
            let (time, unit) = rest.split_once(' ').unwrap();
            assert_eq!(time.split_once('.').unwrap().1.len(), 3, "{line}");
            format!("{start} in T {unit}\n")
        }
        _ => format!("{line}\n"),
    });
    let said = text(&output.stderr).replace(program, "PROGRAM");
    (output.status.code(), lines.collect(), said)
}

fn assert_same(directory: &Directory, args: &str) {
    assert_eq!(
        run(directory, "qemu-img", args),
        run(directory, "strata-img", args),
        "{args}"
    );
}

#[test]
fn lines_are_qemus() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "10M"]);
    for args in [
        "-c 500 -f qcow2 a.qcow2",
        "-c 50 -d 3 -s 64k -S 128k -o 1M -f qcow2 a.qcow2",
        "-c 50 -w -q -t writethrough -f qcow2 a.qcow2",
        "-c 200 -w --flush-interval=64 -f qcow2 a.qcow2",
        "-c 200 -w --flush-interval=64 --no-drain -t unsafe -f qcow2 a.qcow2",
        "-c 0 -U -i threads -f qcow2 a.qcow2",
        "-c x a.qcow2",
        "-d x a.qcow2",
        "-t fast a.qcow2",
        "-i fast a.qcow2",
        "-w --pattern 300 a.qcow2",
        "--flush-interval=100 a.qcow2",
        "-w --flush-interval=3 a.qcow2",
        "-w --flush-interval=x a.qcow2",
    ] {
        assert_same(&directory, args);
    }
    let (code, _, said) = run(&directory, "strata-img", "-c 1 -o 20M -f qcow2 a.qcow2");
    assert_eq!(code, Some(1));
    assert!(said.contains("Failed request: "), "{said}");
}

#[test]
fn patterns_are_written() {
    let directory = Directory::new();
    for name in ["ours", "theirs"] {
        directory.qemu(&["create", "-q", name, "1M"]);
    }
    let args = "-w -c 16 -d 4 --pattern 7 -s 4k -S 16k -o 8k -f raw";
    let made = [("strata-img", "ours"), ("qemu-img", "theirs")];
    for (program, name) in made {
        assert_eq!(
            run(&directory, program, &format!("{args} {name}")).0,
            Some(0)
        );
    }
    assert!(read(&directory.path("ours")) == read(&directory.path("theirs")));
    assert_eq!(read(&directory.path("ours"))[8192], 7);
}
