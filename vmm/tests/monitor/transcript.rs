//! Whole conversations, kept as text beside this file: `> ` is sent, `< ` is what must come.
//!
//! Nearly all that the QMP ones expect was recorded from QEMU 7.2 with disks of the same names;
//! where QEMU cannot be compared with, the file says so after `#`.

use crate::client::{Client, PROMPT};
use crate::fake::Bench;

/// Time stamps are replaced by N.
fn without_time(line: &str) -> String {
    let Some((before, after)) = line.split_once(r#"{"timestamp": {"seconds": "#) else {
        return line.to_owned();
    };
    let (_, after) = after.split_once('}').expect("a time stamp ends");
    format!(r#"{before}{{"timestamp": N{after}"#)
}

/// Sends each request of the transcript, and reads as many lines as the transcript has for it.
fn play_qmp(text: &str) {
    let bench = Bench::new();
    let mut client = Client::connect(&bench.qmp);
    let mut played = String::new();
    for line in text.lines() {
        played += &match line.split_at_checked(2) {
            Some(("> ", request)) => {
                client.send(format!("{request}\n"));
                line.to_owned()
            }
            Some(("< ", _)) => format!("< {}", without_time(&client.line())),
            _ => line.to_owned(),
        };
        played.push('\n');
    }
    assert_eq!(played, text);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "", "more came than the transcript has");
}

/// Sends each line, and reads up to the prompt.
fn play_hmp(text: &str) {
    let bench = Bench::new();
    let mut client = Client::hmp(&bench.hmp);
    let mut played = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            client.send(format!("{command}\n"));
            let answer = client.until(PROMPT);
            assert_eq!(answer.matches('\n').count(), answer.matches("\r\n").count());
            played += &format!("{line}\n{}", answer.replace("\r\n", "\n"));
        } else if line.starts_with('#') {
            played += &format!("{line}\n");
        }
    }
    assert_eq!(played, text);
}

#[test]
fn qmp_protocol_and_its_errors() {
    play_qmp(include_str!("transcripts/qmp-protocol.txt"));
}

#[test]
fn qmp_arguments_are_checked_before_anything_is_done() {
    play_qmp(include_str!("transcripts/qmp-arguments.txt"));
}

#[test]
fn qmp_jobs() {
    play_qmp(include_str!("transcripts/qmp-jobs.txt"));
}

#[test]
fn qmp_machine() {
    play_qmp(include_str!("transcripts/qmp-machine.txt"));
}

#[test]
fn hmp_commands() {
    play_hmp(include_str!("transcripts/hmp-commands.txt"));
}

#[test]
fn hmp_errors() {
    play_hmp(include_str!("transcripts/hmp-errors.txt"));
}

#[test]
fn hmp_help() {
    play_hmp(include_str!("transcripts/hmp-help.txt"));
}
