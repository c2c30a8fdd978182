//! Bad input: one clear line, exit status 125 (or an error of the monitor), and nothing changed.

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::{self, Tool};
use crate::machine::{Boot, Machine};
use crate::program;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest that a refusal may take, in an emulated test host with other work beside it.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let files = Files::create(fixture)?;
    refused_starts(fixture, &files)?;
    let boot = Boot {
        disks: vec![format!("file={},format=qcow2", files.at("top").display())],
        options: vec!["--paused".to_owned()],
        ..Boot::default()
    };
    let mut machine = Machine::start(fixture, "paused", &boot)?;
    refused_lines(fixture, &mut machine, &files)?;
    refused_messages(fixture, &mut machine)?;
    rude_clients(fixture, &mut machine)?;
    machine.hmp.run("info status")?;
    let chain = machine.hmp.run("info block")?;
    ensure(chain.contains("chain depth: 1"), || {
        format!("the chain has changed: {chain}")
    })?;
    files.are_unchanged()?;
    fixture.verified("images", "same bytes as before");
    quit(&mut machine)?;
    fixture.verified("quit", "exit status 0");
    Ok(())
}

/// Image files, each wrong in its own way, and copies to compare them with.
struct Files {
    dir: PathBuf,
    copies: PathBuf,
}

impl Files {
    fn create(fixture: &Fixture) -> Outcome<Files> {
        let files = Files {
            dir: fixture.dir.join("files"),
            copies: fixture.dir.join("copies"),
        };
        for directory in [&files.dir, &files.copies] {
            fs::create_dir_all(directory).context(directory.display())?;
        }
        Tool::QemuImg.create(&files.at("base"), "qcow2", "64M")?;
        Tool::QemuImg.create(&files.at("raw"), "raw", "64M")?;
        files.create_overlay("top", "base", Some("qcow2"))?;
        files.create_overlay("lost", "gone", Some("qcow2"))?;
        files.create_overlay("untyped", "base", None)?;
        files.create_overlay("loop-a", "loop-b", Some("qcow2"))?;
        files.create_overlay("loop-b", "loop-a", Some("qcow2"))?;
        let good = fs::read(files.at("base")).context("base")?;
        files.write("empty", &[])?;
        files.write("truncated", &good[..100])?;
        files.write("text", "This is no image.\n".repeat(40).as_bytes())?;
        files.write(
            "unknown-feature",
            &patched(&good, 72, &(1u64 << 40).to_be_bytes()),
        )?;
        files.write("huge-clusters", &patched(&good, 20, &40u32.to_be_bytes()))?;
        files.write(
            "l1-outside",
            &patched(&good, 40, &(1u64 << 50).to_be_bytes()),
        )?;
        files.write("version-9", &patched(&good, 4, &9u32.to_be_bytes()))?;
        for entry in fs::read_dir(&files.dir).context("files")?.flatten() {
            let copy = files.copies.join(entry.file_name());
            fs::copy(entry.path(), copy).context(entry.path().display())?;
        }
        Ok(files)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Outcome<()> {
        fs::write(self.at(name), bytes).context(name)
    }

    /// A qcow2 image of which only the header names a backing file.
    fn create_overlay(&self, name: &str, backing: &str, format: Option<&str>) -> Outcome<()> {
        let file = self.at(name);
        Tool::QemuImg.create(&file, "qcow2", "64M")?;
        let file = image::text(&file)?;
        match format {
            Some(format) => {
                let args = [
                    "rebase", "-u", "-f", "qcow2", "-b", backing, "-F", format, file,
                ];
                Tool::QemuImg.run(&args).map(drop)
            }
            None => self.name_backing_only(name, backing),
        }
    }

    /// Writes a backing file's name, but no format, into the header: current tools refuse to.
    fn name_backing_only(&self, name: &str, backing: &str) -> Outcome<()> {
        let mut bytes = fs::read(self.at(name)).context(name)?;
        let place = 2048;
        bytes[8..16].copy_from_slice(&(place as u64).to_be_bytes());
        bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        bytes[place..place + backing.len()].copy_from_slice(backing.as_bytes());
        self.write(name, &bytes)
    }

    fn are_unchanged(&self) -> Outcome<()> {
        for entry in fs::read_dir(&self.copies).context("copies")?.flatten() {
            image::same_bytes(&self.dir.join(entry.file_name()), &entry.path())?;
        }
        let count = |dir: &Path| Ok(fs::read_dir(dir).context(dir.display())?.count());
        let is_same = count(&self.dir)? == count(&self.copies)?;
        ensure(is_same, || {
            "a refused command has left a file behind".to_owned()
        })
    }
}

fn patched(bytes: &[u8], offset: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[offset..offset + value.len()].copy_from_slice(value);
    bytes
}

/// Command lines that name something wrong; the line that is printed must contain the words.
fn refused_starts(fixture: &mut Fixture, files: &Files) -> Outcome<()> {
    let kernel = fixture.images.join("vmlinuz").display().to_string();
    let text = files.at("text").display().to_string();
    let disk = |name: &str, format: &str| {
        vec![
            kernel.clone(),
            format!("file={},{format}", files.at(name).display()),
        ]
    };
    let cases: Vec<(Vec<String>, &[&str])> = vec![
        (
            vec!["/no/such/kernel".to_owned()],
            &["/no/such/kernel", "No such file"],
        ),
        (vec![text], &["text", "not a kernel"]),
        (
            disk("no-such-file", "format=raw"),
            &["no-such-file", "No such file"],
        ),
        (disk("", "format=raw"), &["files"]),
        (disk("base", "if=virtio"), &["base", "format=qcow2"]),
        (disk("raw", "format=qcow2"), &["raw", "qcow2"]),
        (disk("empty", "format=qcow2"), &["empty"]),
        (disk("truncated", "format=qcow2"), &["truncated"]),
        (disk("text", "format=qcow2"), &["text"]),
        (disk("version-9", "format=qcow2"), &["version-9", "version"]),
        (
            disk("unknown-feature", "format=qcow2"),
            &["unknown-feature", "feature"],
        ),
        (
            disk("huge-clusters", "format=qcow2"),
            &["huge-clusters", "cluster"],
        ),
        (disk("l1-outside", "format=qcow2"), &["l1-outside", "L1"]),
        (disk("lost", "format=qcow2"), &["gone", "No such file"]),
        (disk("untyped", "format=qcow2"), &["base", "format"]),
        (disk("loop-a", "format=qcow2"), &["loop-"]),
    ];
    for (values, words) in &cases {
        let mut args = vec!["run", "--serial", "none"];
        for (option, value) in ["--kernel", "--disk"].into_iter().zip(values) {
            args.extend([option, value]);
        }
        let ended = program::run("strata", &args, LIMIT)?;
        let said = ended.stderr.trim_end();
        let is_right = ended.code == Some(125)
            && said.lines().count() == 1
            && words.iter().all(|word| said.contains(word));
        ensure(is_right, || {
            format!("strata {args:?}: expected {words:?}, got {ended:?}")
        })?;
    }
    files.are_unchanged()?;
    fixture.say(
        "refused",
        format!("{} ways to start strata wrongly", cases.len()),
    );
    fixture.verified(
        "command line",
        format!("{} refusals, one clear line each", cases.len()),
    );
    Ok(())
}

/// Lines of the human monitor that must be refused, with part of the reason.
fn refused_lines(fixture: &mut Fixture, machine: &mut Machine, files: &Files) -> Outcome<()> {
    let (raw, none) = (files.at("raw"), files.at("no/such/directory/x"));
    let long = "x".repeat(1 << 20);
    let cases = [
        ("bogus".to_owned(), "unknown command"),
        ("info bogus".to_owned(), "unknown command"),
        ("block_stream".to_owned(), "expected"),
        ("block_stream nosuch".to_owned(), "nosuch"),
        ("block_stream virtio0 nosuch".to_owned(), "nosuch"),
        ("block_stream virtio0 -5".to_owned(), ""),
        ("block_job_cancel virtio0".to_owned(), "not found"),
        ("block_job_set_speed virtio0 1M".to_owned(), "not found"),
        (
            format!("snapshot_blkdev nosuch {} qcow2", files.at("new").display()),
            "nosuch",
        ),
        (
            format!("snapshot_blkdev virtio0 {} qcow2", raw.display()),
            "exist",
        ),
        (
            format!("snapshot_blkdev virtio0 {} qcow2", none.display()),
            "No such file",
        ),
        (
            format!("snapshot_blkdev virtio0 {} vmdk", files.at("new").display()),
            "vmdk",
        ),
        (long, ""),
    ];
    for (line, word) in &cases {
        let answer = machine.hmp.send(line)?;
        let is_right = !answer.is_empty() && answer.contains(word);
        let line = &line[..line.len().min(80)];
        ensure(is_right, || {
            format!("`{line}`: expected {word:?}, got {answer:?}")
        })?;
    }
    files.are_unchanged()?;
    fixture.say(
        "refused",
        format!("{} lines in the human monitor", cases.len()),
    );
    fixture.verified("HMP", format!("{} refusals", cases.len()));
    Ok(())
}

/// Commands of the machine-readable monitor that must be answered with an error of this class.
fn refused_messages(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    let cases = [
        ("nosuch", json!({}), "CommandNotFound"),
        ("block-stream", json!({}), "GenericError"),
        ("block-stream", json!({"device": 7}), "GenericError"),
        ("block-stream", json!({"device": "nosuch"}), "GenericError"),
        (
            "block-stream",
            json!({"device": "virtio0", "foo": 1}),
            "GenericError",
        ),
        (
            "block-stream",
            json!({"device": "virtio0", "base": "nosuch"}),
            "GenericError",
        ),
        (
            "block-stream",
            json!({"device": "virtio0", "speed": -1}),
            "GenericError",
        ),
        (
            "block-job-cancel",
            json!({"device": "virtio0"}),
            "DeviceNotActive",
        ),
        (
            "blockdev-snapshot-sync",
            json!({"device": "virtio0"}),
            "GenericError",
        ),
    ];
    for (command, arguments, class) in &cases {
        let answer = machine.qmp.send(command, arguments.clone())?;
        let is_right = answer["error"]["class"] == *class && answer["error"]["desc"] != "";
        ensure(is_right, || {
            format!("{command} {arguments}: expected {class}, got {answer}")
        })?;
    }
    fixture.say("refused", format!("{} commands in QMP", cases.len()));
    fixture.verified("QMP", format!("{} refusals, by class", cases.len()));
    Ok(())
}

/// Clients that connect and send nothing, garbage, too much, or half a line. The others are not
/// disturbed.
fn rude_clients(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    let socket = |kind: &str| fixture.dir.join(format!("paused.{kind}.sock"));
    let connect = |kind: &str| {
        let path = socket(kind);
        let client = UnixStream::connect(&path).context(path.display())?;
        client.set_read_timeout(Some(LIMIT)).context("client")?;
        client
            .set_write_timeout(Some(Duration::from_secs(2)))
            .context("client")?;
        Outcome::Ok(client)
    };
    let _silent = [connect("hmp")?, connect("qmp")?];
    for kind in ["hmp", "qmp"] {
        let mut half = connect(kind)?;
        half.write_all(b"{\"execute\": \"quit")
            .context("half a line")?;
        drop(half);
        let mut flood = connect(kind)?;
        for _ in 0..64 {
            // It may be cut off, or no longer be read from; both are answers.
            if flood.write_all(&[b'['; 65536]).is_err() {
                break;
            }
        }
    }
    let mut garbage = connect("qmp")?;
    garbage
        .write_all(b"}{ this is no JSON\r\n")
        .context("garbage")?;
    let answer = read_until(&mut garbage, "error")?;
    ensure(answer.contains("JSON"), || {
        format!("garbage is answered with {answer}")
    })?;
    let status: Value = machine.qmp.run("query-status", json!({}))?;
    ensure(status["running"] == false, || {
        format!("query-status: {status}")
    })?;
    fixture.say(
        "survived",
        "clients that are silent, leave early, flood, or talk nonsense",
    );
    fixture.verified(
        "rude clients",
        "silent, leaving, flooding, nonsense: others are served",
    );
    Ok(())
}

fn read_until(client: &mut UnixStream, word: &str) -> Outcome<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(word) {
        let count = client.read(&mut buffer).context("answer")?;
        ensure(count > 0, || format!("closed after {text:?}"))?;
        text += &String::from_utf8_lossy(&buffer[..count]);
    }
    Ok(text)
}

fn quit(machine: &mut Machine) -> Outcome<()> {
    machine.qmp.run("quit", json!({}))?;
    machine.wait_success(30)
}
