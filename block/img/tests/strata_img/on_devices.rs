//! Images on block devices: made, filled, resized and looked at as with `qemu-img`.

use std::fs;

use crate::{Directory, device::Device, read, text};

const SIZE: u64 = 4 << 20;
const PROGRAMS: [&str; 2] = ["qemu-img", "strata-img"];

/// A directory with a device of `SIZE` and the given number of sectors more, and sources: 1 MiB
/// with data and zeros (`s.raw`), an odd length (`odd.raw`), more than the device has (`big.raw`),
/// a base.
fn setup(sectors: u64) -> Option<(Directory, Device)> {
    let directory = Directory::new();
    let device = Device::new(&directory, "disk", SIZE + sectors * 512)?;
    let mut bytes = vec![0; 1 << 20];
    bytes[1000..400_000].fill(5);
    fs::write(directory.path("s.raw"), &bytes).unwrap();
    fs::write(directory.path("odd.raw"), &bytes[..700_001]).unwrap();
    fs::write(directory.path("big.raw"), vec![6; 6 << 20]).unwrap();
    directory.qemu(&["create", "-q", "-f", "qcow2", "base.qcow2", "1M"]);
    directory.qemu_io("base.qcow2", &["write -q -P 7 64k 64k"]);
    Some((directory, device))
}

/// Runs a command with the device in the place of `DEV`; its exit code and what it has printed.
fn run(
    directory: &Directory,
    device: &Device,
    program: &str,
    command: &str,
) -> (Option<i32>, String, String) {
    let command = command.replace("DEV", device.path());
    let command = command.replace("BASE", &directory.path("base.qcow2").display().to_string());
    let args: Vec<&str> = command.split(' ').collect();
    let output = directory.run(program, &args);
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn images_are_made_as_by_qemu() {
    for sectors in [0, 1, 5] {
        let Some((directory, device)) = setup(sectors) else {
            return;
        };
        for command in [
            "create -q -f qcow2 DEV 4M",
            "create -q -f qcow2 DEV 80M",
            "create -q -f qcow2 -o cluster_size=512,refcount_bits=64 DEV 1M",
            "create -q -f qcow2 -o compat=0.10,cluster_size=256k DEV 1M",
            "create -q -f qcow2 -o preallocation=metadata DEV 2M",
            "create -q -f qcow2 -b BASE -F qcow2 DEV",
            "create -q -f qcow2 -b BASE -F qcow2 DEV 3M",
            "convert -O qcow2 s.raw DEV",
            "convert -O qcow2 odd.raw DEV",
            "convert -c -O qcow2 s.raw DEV",
            "convert -S 0 -O qcow2 s.raw DEV",
            "convert -O qcow2 -o preallocation=metadata s.raw DEV",
            "convert -O qcow2 -B BASE -F qcow2 base.qcow2 DEV",
            "convert -W -t none -O qcow2 s.raw DEV",
            "dd -f raw -O qcow2 bs=1000 count=77 if=s.raw of=DEV",
        ] {
            let images = PROGRAMS.map(|program| {
                device.fill(9);
                let (code, _, said) = run(&directory, &device, program, command);
                assert_eq!(code, Some(0), "{program} {command}: {said}");
                directory.qemu(&["check", "-q", "-f", "qcow2", device.path()]);
                let (code, _, said) =
                    run(&directory, &device, "strata-img", "check -q -f qcow2 DEV");
                assert_eq!(code, Some(0), "{program} {command}: {said}");
                let compared = directory.path(program);
                let to = compared.display().to_string();
                directory.qemu(&["convert", "-f", "qcow2", "-O", "raw", device.path(), &to]);
                let info = directory.qemu(&["info", "-f", "qcow2", device.path()]);
                (info, read(&compared))
            });
            assert_eq!(images[0].0, images[1].0, "{command}");
            // What nobody has written to places that were kept for it is not what lay there before.
            let ours = &images[1].1;
            if command.starts_with("create") && command.contains("metadata") {
                assert!(ours.iter().all(|byte| *byte == 0), "{command}");
            } else {
                assert!(images[0].1 == *ours, "{command}");
            }
        }
        // Raw, with what lies behind its end.
        for command in [
            "create -q -f raw DEV 1M",
            "create -q -f raw DEV 4M",
            "convert -O raw s.raw DEV",
            "convert -O raw odd.raw DEV",
            "convert -n -O raw base.qcow2 DEV",
            "dd -f raw -O raw bs=999 count=7 if=s.raw of=DEV",
        ] {
            let contents = PROGRAMS.map(|program| {
                device.fill(9);
                let (code, _, said) = run(&directory, &device, program, command);
                assert_eq!(code, Some(0), "{program} {command}: {said}");
                device.content()
            });
            assert!(contents[0] == contents[1], "{command}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_in_a_line_and_nothing_is_written() {
    let Some((directory, device)) = setup(1) else {
        return;
    };
    for (command, word) in [
        ("create -q -f raw DEV 5M", "too small and cannot grow"),
        (
            "create -q -f qcow2 -o preallocation=metadata DEV 4M",
            "too small and cannot grow",
        ),
        (
            "create -q -f qcow2 -o cluster_size=2M DEV 1M",
            "too small and cannot grow",
        ),
        (
            "create -q -f qed DEV 1M",
            "QED images can only grow at the end",
        ),
        (
            "convert -O qed s.raw DEV",
            "QED images can only grow at the end",
        ),
        (
            "dd -f raw -O qed if=s.raw of=DEV",
            "QED images can only grow at the end",
        ),
        (
            "create -q -f raw -o preallocation=falloc DEV 1M",
            "Preallocation mode 'falloc'",
        ),
        (
            "create -q -f raw -o preallocation=full DEV 1M",
            "Preallocation mode 'full'",
        ),
        (
            "create -q -f qcow2 -o preallocation=falloc DEV 1M",
            "Preallocation mode 'falloc'",
        ),
        (
            "create -q -f qcow2 -o preallocation=full DEV 1M",
            "Preallocation mode 'full'",
        ),
        ("convert -O raw big.raw DEV", "too small and cannot grow"),
        ("convert -n -O raw big.raw DEV", "smaller"),
        (
            "dd -f raw -O raw if=big.raw of=DEV",
            "too small and cannot grow",
        ),
        ("resize -q -f raw DEV 5M", "changing the size of a device"),
        (
            "resize -q -f raw --shrink DEV 1M",
            "changing the size of a device",
        ),
        (
            "resize -q -f raw --preallocation=full DEV +1M",
            "Preallocation mode 'full'",
        ),
    ] {
        device.fill(9);
        let before = device.content();
        let (code, _, said) = run(&directory, &device, "strata-img", command);
        assert_eq!(code, Some(1), "{command}: {said}");
        assert_eq!(said.lines().count(), 1, "{command}: {said}");
        assert!(said.contains(word), "{command}: {said}");
        assert!(before == device.content(), "{command}");
        // 2 MiB clusters: the reference finds out when it has begun.
        let (theirs, _, said) = run(&directory, &device, "qemu-img", command);
        assert_eq!(theirs, Some(1), "{command}: {said}");
    }
}

#[test]
fn an_image_grows_to_the_end_of_its_device() {
    let Some((directory, device)) = setup(3) else {
        return;
    };
    for command in [
        "convert -O qcow2 big.raw DEV",
        "convert -O qcow2 -W big.raw DEV",
        "dd -f raw -O qcow2 if=big.raw of=DEV",
    ] {
        let (code, _, said) = run(&directory, &device, "strata-img", command);
        assert_eq!(code, Some(1), "{command}: {said}");
        assert_eq!(said.lines().count(), 1, "{command}: {said}");
        assert!(said.contains("the device ends there"), "{command}: {said}");
    }
    // All but the tables can be used; then there is one line, and the image is as good as before.
    run(
        &directory,
        &device,
        "strata-img",
        "create -q -f qcow2 DEV 40M",
    );
    directory.qemu(&["create", "-q", "part.raw", "40M"]);
    directory.ok(
        "qemu-io",
        &["-f", "raw", "-c", "write -q -P 4 0 3584k", "part.raw"],
    );
    let convert = "convert -n -f raw -O qcow2 part.raw DEV";
    let (code, _, said) = run(&directory, &device, "strata-img", convert);
    assert_eq!(code, Some(0), "{said}");
    directory.qemu(&[
        "compare",
        "-f",
        "raw",
        "-F",
        "qcow2",
        "part.raw",
        device.path(),
    ]);
    directory.ok(
        "qemu-io",
        &["-f", "raw", "-c", "write -q -P 4 0 8M", "part.raw"],
    );
    let (code, _, said) = run(&directory, &device, "strata-img", convert);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the device ends there"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let check = directory.run("qemu-img", &["check", "-f", "qcow2", device.path()]);
    assert!(matches!(check.status.code(), Some(0 | 3)), "{check:?}");
}

#[test]
fn images_on_devices_are_resized_as_by_qemu() {
    let Some((directory, device)) = setup(0) else {
        return;
    };
    for commands in [
        &["resize -f qcow2 --shrink DEV 1M"][..],
        &["resize -f qcow2 DEV 80M"],
        &["resize -f qcow2 --shrink DEV 1M", "resize -f qcow2 DEV 3M"],
        &["resize -f qcow2 --preallocation=metadata DEV +1M"],
        &["resize -f qcow2 --preallocation=falloc DEV +1M"],
        &["resize -f raw DEV 4M"],
    ] {
        let results = PROGRAMS.map(|program| {
            device.fill(9);
            directory.qemu(&["create", "-q", "-f", "qcow2", device.path(), "2M"]);
            directory.qemu_io(device.path(), &["write -q -P 3 0 2M"]);
            let mut said = Vec::new();
            for command in commands {
                let (code, out, error) = run(&directory, &device, program, command);
                said.push((code, out));
                assert!(error.lines().count() <= 1, "{error}");
            }
            directory.qemu(&["check", "-q", "-f", "qcow2", device.path()]);
            directory.qemu(&[
                "convert",
                "-f",
                "qcow2",
                "-O",
                "raw",
                device.path(),
                program,
            ]);
            (said, read(&directory.path(program)))
        });
        assert_eq!(results[0].0, results[1].0, "{commands:?}");
        let (theirs, ours) = (&results[0].1, &results[1].1);
        // What gets its place now is not what lay there before.
        let new = ours
            .get(2 << 20..)
            .filter(|_| commands[0].contains("metadata"));
        if let Some(new) = new {
            assert!(new.iter().all(|byte| *byte == 0), "{commands:?}");
        } else {
            assert!(theirs == ours, "{commands:?}");
        }
    }
}

#[test]
fn devices_are_shown_as_by_qemu() {
    let Some((directory, device)) = setup(5) else {
        return;
    };
    for make in ["create -q -f raw DEV 1M", "convert -O qcow2 s.raw DEV"] {
        device.fill(0);
        run(&directory, &device, "qemu-img", make);
        for command in [
            "info DEV",
            "info --output=json DEV",
            "map DEV",
            "map --output=json DEV",
            "measure -O qcow2 DEV",
            "measure -O raw --output=json DEV",
            "check DEV",
            "snapshot -l DEV",
            "compare DEV s.raw",
        ] {
            let said = PROGRAMS.map(|program| {
                let (code, out, error) = run(&directory, &device, program, command);
                (code, out, error.replace(program, "PROGRAM"))
            });
            assert_eq!(said[0], said[1], "{make}: {command}");
        }
    }
    // Snapshots, an overlay on a device and a commit into one.
    for command in [
        "convert -O qcow2 s.raw DEV",
        "snapshot -c one DEV",
        "snapshot -a one DEV",
        "snapshot -d one DEV",
        "create -q -f qcow2 --backing-folders /dev -b DEV -F qcow2 top.qcow2",
    ] {
        let (code, _, said) = run(&directory, &device, "strata-img", command);
        assert_eq!(code, Some(0), "{command}: {said}");
    }
    directory.qemu_io("top.qcow2", &["write -q -P 8 0 1M"]);
    let directories = ["--backing-folders", "/"];
    let commit = ["commit", "-q", "-f", "qcow2", "top.qcow2"];
    directory.ok("strata-img", &[&commit[..], &directories].concat());
    directory.qemu(&["check", "-q", device.path()]);
    directory.qemu(&["compare", "top.qcow2", device.path()]);
}

#[test]
fn devices_of_large_sectors_are_zeroed_too() {
    let directory = Directory::new();
    let Some(device) = Device::with_sectors(&directory, "disk", SIZE, 4096) else {
        return;
    };
    let mut bytes = vec![5; 1 << 20];
    bytes[5120..9728].fill(0);
    bytes[100_352..300_032].fill(0);
    fs::write(directory.path("s.raw"), &bytes).unwrap();
    for command in [
        "convert -n -S 512 -O raw s.raw DEV",
        "convert -O raw s.raw DEV",
    ] {
        let contents = PROGRAMS.map(|program| {
            device.fill(9);
            let (code, _, said) = run(&directory, &device, program, command);
            assert_eq!(code, Some(0), "{program} {command}: {said}");
            device.content()
        });
        assert!(contents[0] == contents[1], "{command}");
    }
}
