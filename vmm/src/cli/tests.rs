use clap::{CommandFactory, error::ErrorKind};

use super::*;

fn run(args: &[&str]) -> Result<RunArgs, clap::Error> {
    let all = ["strata", "run"].iter().chain(args);
    match Cli::try_parse_from(all)?.command {
        Command::Run(args) => Ok(*args),
        _ => unreachable!("`run` was asked for"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn defaults() {
    let args = run(&["--kernel", "k"]).unwrap();
    assert_eq!((args.machine.memory, args.machine.cpus), (512 << 20, 1));
    assert_eq!(args.serial(), Ok(SerialEndpoint::Stdio));
    assert!(args.disks.is_empty() && args.monitors.is_empty() && !args.paused);
}

#[test]
fn without_a_kernel_there_is_something_to_boot() {
    let args = run(&["--disk", "file=a,bootindex=1"]).unwrap();
    assert_eq!((args.kernel, args.disks[0].boot_index), (None, Some(1)));
    assert!(run(&["--firmware", "f"]).unwrap().disks.is_empty());
    let kind = |args: &[&str]| run(args).unwrap_err().kind();
    let missing = ErrorKind::MissingRequiredArgument;
    assert_eq!(kind(&[]), missing);
    assert_eq!(kind(&["--disk", "file=a", "--append", ""]), missing);
    assert_eq!(kind(&["--disk", "file=a", "--initrd", "i"]), missing);
    assert!(run(&["--kernel", "k", "--firmware", "f"]).is_ok());
}

#[test]
fn monitors_can_be_given_several_times() {
    let args = run(&[
        "--kernel",
        "k",
        "--monitor",
        "unix:/m",
        "--monitor",
        "stdio",
        "--qmp",
        "fd:5",
    ])
    .unwrap();
    let monitors = [Endpoint::Unix("/m".into()), Endpoint::Stdio];
    assert_eq!(args.monitors, monitors);
    assert_eq!(args.qmps, [Endpoint::Fd(5)]);
}

#[test]
fn wrong_values_are_usage_errors() {
    for args in [
        ["--kernel", "k", "--memory", "x"],
        ["--kernel", "k", "--memory", "1M"],
        ["--kernel", "k", "--memory", "99999999999G"],
        ["--kernel", "k", "--cpus", "0"],
        ["--kernel", "k", "--cpus", "255"],
        ["--kernel", "k", "--serial", "tty"],
        ["--kernel", "k", "--monitor", "unix:"],
        ["--kernel", "k", "--qmp", "fd:1"],
        ["--kernel", "k", "--disk", "file=a,b=c"],
    ] {
        let error = run(&args).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args:?}");
        assert!(
            matches!(error.kind(), ErrorKind::ValueValidation),
            "{args:?}: {error}"
        );
    }
}

#[test]
fn memory_sizes() {
    for (text, mib) in [("512", 512), ("512M", 512), ("2G", 2048), ("2048k", 2)] {
        let parsed = size::parse_memory(text);
        if mib < 4 {
            assert!(parsed.is_err(), "{text}");
        } else {
            assert_eq!(parsed, Ok(mib << 20), "{text}");
        }
    }
}

#[test]
fn what_a_disk_says_of_its_changes_comes_first() {
    let directories = |options: &[&str]| {
        let disks = [
            "--disk",
            "file=a",
            "--disk",
            "file=b,snapshot=on",
            "--disk",
            "file=c,snapshot=off",
        ];
        let args = run(&[&["--kernel", "k"], &disks[..], options].concat()).unwrap();
        let directory = |disk| args.temporary.directory_for(disk);
        args.disks.iter().map(directory).collect::<Vec<_>>()
    };
    let here = Some(PathBuf::from("here"));
    let given = directories(&["--temp-dir", "here"]);
    assert_eq!(given, [None, here.clone(), None]);
    let given = directories(&["--snapshot", "--temp-dir", "here"]);
    assert_eq!(given, [here.clone(), here, None]);
}

#[test]
fn one_thing_uses_the_terminal() {
    let serial = |args: &[&str]| run(&[&["--kernel", "k"], args].concat()).unwrap().serial();
    let monitor = ["--monitor", "stdio"];
    assert_eq!(serial(&monitor), Ok(SerialEndpoint::None));
    assert!(serial(&["--monitor", "stdio", "--qmp", "stdio"]).is_err());
    assert!(serial(&["--monitor", "stdio", "--serial", "stdio"]).is_err());
    assert!(serial(&["--qmp", "stdio", "--serial", "file:x"]).is_ok());
}

#[test]
fn serve_needs_somebody_to_serve() {
    let serve = |args: &[&str]| {
        let all = ["strata", "serve"].iter().chain(args);
        Cli::try_parse_from(all)
            .map(|_| ())
            .map_err(|error| error.kind())
    };
    let missing = Err(ErrorKind::MissingRequiredArgument);
    assert_eq!(serve(&[]), missing);
    // Disks are not all that there is to ask for.
    assert_eq!(serve(&["--qmp", "unix:/q"]), Ok(()));
    assert_eq!(serve(&["--disk", "file=a"]), missing);
    assert_eq!(serve(&["--disk", "file=a", "--qmp", "unix:/q"]), Ok(()));
    let export = "type=nbd,disk=virtio0,addr=unix:/s";
    assert_eq!(serve(&["--disk", "file=a", "--export", export]), Ok(()));
}
