//! `strata test`: commands, each in a guest of its own.

mod terminal;

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::Tool;
use crate::program::{self, Ended, Running};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest that a guest may take, in an emulated test host with other work beside it.
const LIMIT: Duration = Duration::from_secs(120);
/// Guests start sooner without their kernel's messages, so they have these only where it matters.
const QUIET: &[&str] = &["--append", "quiet"];
const LOUD: &[&str] = &["--append", "loglevel=7"];

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    // Most of its time it only waits, so it runs beside the others.
    let endless = args(fixture, &["--timeout", "15s"], &["sleep", "1000"]);
    let endless = Running::start("strata", endless, LIMIT);
    streams(fixture)?;
    input(fixture)?;
    terminal::has_its_size_and_a_way_out(fixture)?;
    statuses(fixture)?;
    times_out(fixture, endless)?;
    shares_and_results(fixture)?;
    root(fixture)?;
    refused(fixture)
}

fn run(fixture: &Fixture, options: &[&str], command: &[&str]) -> Outcome<Ended> {
    program::run("strata", &args(fixture, options, command), LIMIT)
}

fn args(fixture: &Fixture, options: &[&str], command: &[&str]) -> Vec<String> {
    let kernel = fixture.images.join("vmlinuz").display().to_string();
    let is_said = options.contains(&"--append");
    let append = if is_said { &[] } else { QUIET };
    let args = [
        &["test", "--kernel", &kernel],
        append,
        options,
        &["--"],
        command,
    ];
    let args = args.concat();
    args.into_iter().map(str::to_owned).collect()
}

/// Standard output and standard error arrive apart, whole, and without the kernel's messages.
fn streams(fixture: &mut Fixture) -> Outcome<()> {
    let script = "seq 1 20000; echo oops >&2; printf '\\000\\001\\377'; exit 42";
    let junit = fixture.dir.join("junit.xml").display().to_string();
    let options = [LOUD, &["--result-junit", &junit]].concat();
    let ended = run(fixture, &options, &["sh", "-c", script])?;
    let report = fs::read_to_string(&junit).context("the report")?;
    let wanted = "<failure message=\"the command ended with status 42\" type=\"command\"";
    ensure(report.contains(wanted), || report.clone())?;
    let mut expected: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    // As the harness reads it: what is no text is marked.
    expected += "\0\u{1}\u{fffd}";
    let is_right = ended.code == Some(42) && ended.stdout == expected && ended.stderr == "oops\n";
    ensure(is_right, || {
        let end = ended.stdout.len().saturating_sub(50);
        format!(
            "{:?} {:?} ...{:?}",
            ended.code,
            ended.stderr,
            &ended.stdout.get(end..)
        )
    })?;
    fixture.verified(
        "streams",
        format!("{} bytes, and errors apart", expected.len()),
    );
    Ok(())
}

/// What is typed, or piped in, arrives whole.
fn input(fixture: &mut Fixture) -> Outcome<()> {
    let kernel = fixture.images.join("vmlinuz");
    let mut command = Command::new("strata");
    command
        .arg("test")
        .arg("--kernel")
        .arg(&kernel)
        .args(QUIET)
        .args(["--", "md5sum"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("strata test")?;
    let bytes: Vec<u8> = (0..100_000u32)
        .flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_le_bytes())
        .take(60_000)
        .collect();
    let file = fixture.dir.join("typed");
    fs::write(&file, &bytes).context("typed")?;
    let mut pipe = child.stdin.take().context("a pipe")?;
    pipe.write_all(&bytes).context("the pipe")?;
    drop(pipe);
    let output = child.wait_with_output().context("strata test")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = program::run("md5sum", &[&file], LIMIT)?.stdout;
    let sum = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    ensure(
        output.status.success() && sum(&said) == sum(&expected),
        || format!("{said} {expected}"),
    )?;
    fixture.verified("input", "60000 bytes, and its end");
    Ok(())
}

fn statuses(fixture: &mut Fixture) -> Outcome<()> {
    let cases: [(&[&str], &[&str], i32, &str); 4] = [
        (
            &[],
            &["no-such-command"],
            127,
            "no-such-command: command not found in the guest",
        ),
        (&[], &["sh", "-c", "kill -9 $$"], 137, ""),
        (&[], &["sh", "-c", "strata-exit 5; sleep 100"], 5, ""),
        (
            LOUD,
            &["sh", "-c", "echo c > /proc/sysrq-trigger"],
            101,
            "panicked: sysrq triggered crash",
        ),
    ];
    for (options, command, status, says) in cases {
        let ended = run(fixture, options, command)?;
        let is_right = ended.code == Some(status)
            && ended.stderr.contains(says)
            && (!says.is_empty() || ended.stderr.is_empty());
        ensure(is_right, || format!("{command:?}: {ended:?}"))?;
        fixture.verified(command.join(" "), format!("exit status {status}"));
    }
    Ok(())
}

fn times_out(fixture: &mut Fixture, endless: Running) -> Outcome<()> {
    let ended = endless.end()?;
    let says = "had not ended after 15 s";
    let is_right = ended.code == Some(124) && ended.stderr.contains(says);
    ensure(is_right, || format!("{ended:?}"))?;
    fixture.verified("sleep 1000", "exit status 124");
    Ok(())
}

fn shares_and_results(fixture: &mut Fixture) -> Outcome<()> {
    let (shared, out) = (fixture.dir.join("shared"), fixture.dir.join("out"));
    fs::create_dir_all(shared.join("below")).context("shared")?;
    fs::write(shared.join("below/text"), "from the host\n").context("shared")?;
    let share = format!("{}:/work/src", shared.display());
    let out_text = out.display().to_string();
    let script = "mkdir $STRATA_OUT/d && tr a-z A-Z < /work/src/below/text > $STRATA_OUT/d/upper && \
                  ln -s /etc $STRATA_OUT/link";
    let ended = run(
        fixture,
        &["--share", &share, "--out", &out_text],
        &["sh", "-c", script],
    )?;
    let upper = fs::read_to_string(out.join("d/upper")).unwrap_or_default();
    let is_right = ended.code == Some(0)
        && upper == "FROM THE HOST\n"
        && ended.stderr.contains("results: link is no plain file")
        && !out.join("link").exists();
    ensure(is_right, || format!("{ended:?} {upper:?}"))?;
    fixture.verified("share and results", "a directory goes in, files come back");
    Ok(())
}

/// A disk whose file system is the command's root; what it writes is on the disk afterwards.
fn root(fixture: &mut Fixture) -> Outcome<()> {
    let tree = fixture.dir.join("tree");
    for directory in ["bin", "etc", "proc", "sys", "dev", "run"] {
        fs::create_dir_all(tree.join(directory)).context("tree")?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("busybox")?;
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh")).context("busybox")?;
    let disk = fixture.dir.join("root.raw");
    Tool::QemuImg.create(&disk, "raw", "32M")?;
    make_ext4(&tree, &disk)?;
    let option = format!("file={},format=raw", disk.display());
    let script = "busybox ls / > /etc/listing; busybox df / | busybox tail -n 1; strata-exit 9";
    let ended = run(fixture, &["--root", &option], &["sh", "-c", script])?;
    ensure(
        ended.code == Some(9) && ended.stdout.contains("/dev/"),
        || format!("{ended:?}"),
    )?;
    // On IDE the kernel may find another disk first.
    let other = |name: &str| -> Outcome<String> {
        let path = fixture.dir.join(name);
        Tool::QemuImg.create(&path, "raw", "1M")?;
        Ok(format!("--disk=file={},format=raw,if=ide", path.display()))
    };
    let ide = format!("{option},if=ide");
    let options = ["--root", &ide, &other("second")?, &other("third")?];
    let again = run(fixture, &options, &["sh", "-c", "busybox cat /etc/listing"])?;
    ensure(
        again.code == Some(0) && again.stdout.contains("etc\n"),
        || format!("{again:?}"),
    )?;
    fixture.verified("root on a disk", "ext4, written, and there the next time");
    Ok(())
}

fn make_ext4(tree: &Path, disk: &Path) -> Outcome<()> {
    let args = ["-q", "-t", "ext4", "-d"].map(str::to_owned).into_iter();
    let paths = [tree, disk].map(|path| path.display().to_string());
    let args: Vec<_> = args.chain(paths).collect();
    let made = program::run("mke2fs", &args, LIMIT)?;
    ensure(made.code == Some(0), || format!("{made:?}"))
}

fn refused(fixture: &mut Fixture) -> Outcome<()> {
    let empty = fixture.dir.join("empty.raw");
    Tool::QemuImg.create(&empty, "raw", "1M")?;
    let empty = format!("file={},format=raw", empty.display());
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--root", &empty], 125, "no file system that is known"),
        (
            &["--root", "file=/no/such/disk,format=raw"],
            125,
            "/no/such/disk",
        ),
        (
            &["--share", "/no/such/directory:/src"],
            125,
            "/no/such/directory",
        ),
        (&["--share", "/tmp"], 2, "--share"),
    ];
    for (options, status, says) in cases {
        let ended = run(fixture, options, &["true"])?;
        let is_right = ended.code == Some(status) && ended.stderr.contains(says);
        ensure(is_right, || format!("{options:?}: {ended:?}"))?;
    }
    // Nothing beside it, so that all that it has is built in; and that is not enough for disks.
    let alone = fixture.dir.join("alone");
    fs::create_dir_all(&alone).context("alone")?;
    let kernel = alone.join("bzImage").display().to_string();
    fs::copy(fixture.images.join("vmlinuz"), &kernel).context("kernel")?;
    let args = ["test", "--kernel", &kernel, "--disk", &empty, "--", "true"];
    let ended = program::run("strata", &args, LIMIT)?;
    let says = "the guest's kernel has no virtio_pci, which its disks need: it is not built in";
    ensure(
        ended.code == Some(125) && ended.stderr.contains(says),
        || format!("{ended:?}"),
    )?;
    let ended = run(fixture, &["--append", "8250.nr_uarts=1"], &["true"])?;
    let says = "before the command had ended: the guest's kernel gives no second serial port";
    ensure(
        ended.code == Some(125) && ended.stderr.contains(says),
        || format!("{ended:?}"),
    )?;
    if !Path::new("/boot").exists() {
        let ended = program::run("strata", &["test", "--", "true"], LIMIT)?;
        let says = "strata: no kernel was found in /boot: give one with --kernel FILE\n";
        ensure(ended.code == Some(125) && ended.stderr == says, || {
            format!("{ended:?}")
        })?;
    }
    let args = ["test", "--kernel", "/no/such/kernel", "--", "true"];
    let ended = program::run("strata", &args, LIMIT)?;
    ensure(
        ended.code == Some(125) && ended.stderr.contains("/no/such/kernel"),
        || format!("{ended:?}"),
    )?;
    fixture.verified("bad input", "one line each");
    Ok(())
}
