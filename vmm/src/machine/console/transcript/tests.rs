use std::io::sink;

use super::*;
use crate::machine::post::{Inbox, Message};

fn console() -> (Recorded, Transcript, Inbox) {
    let (post, inbox) = Inbox::new().unwrap();
    let transcript = Transcript::default();
    let console = Recorded::new(Box::new(sink()), transcript.clone(), post);
    (console, transcript, inbox)
}

fn events(inbox: &mut Inbox) -> Vec<GuestEvent> {
    std::iter::from_fn(|| inbox.next())
        .map(|message| match message {
            Message::Guest(event) => event,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn the_last_lines_are_kept_and_long_ones_cut() {
    let (mut console, transcript, _inbox) = console();
    for number in 0..60 {
        write!(console, "line {number}\r\n").unwrap();
    }
    console.write_all(&[b'x'; 5000]).unwrap();
    let tail = transcript.tail();
    assert_eq!(tail.len(), LINES);
    assert_eq!(tail[0], "line 11");
    assert_eq!(tail[48], "line 59");
    assert_eq!(tail[49].len(), LINE);
}

#[test]
fn what_would_control_a_terminal_is_made_visible() {
    let (mut console, transcript, _inbox) = console();
    console.write_all(b"\x1b[31mred\t\xff\n").unwrap();
    assert_eq!(transcript.tail(), ["\u{fffd}[31mred\t\u{fffd}"]);
}

#[test]
fn a_panic_is_seen_however_the_kernel_marks_its_lines() {
    for prefix in [
        "",
        "[    1.234567] ",
        "[    1.234567][    T1] ",
        "[   12.000001][  C0] ",
    ] {
        let (mut console, _, mut inbox) = console();
        write!(
            console,
            "{prefix}Kernel panic - not syncing: Attempted to kill init!\r\n"
        )
        .unwrap();
        write!(console, "{prefix}CPU: 0 PID: 1 Comm: init\r\n").unwrap();
        write!(
            console,
            "{prefix}---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n"
        )
        .unwrap();
        let reason = "Attempted to kill init!".to_owned();
        assert_eq!(
            events(&mut inbox),
            [GuestEvent::PanicPrinted(reason), GuestEvent::PanicEnded],
            "{prefix:?}"
        );
    }
}

#[test]
fn words_about_a_panic_are_none() {
    let (mut console, _, mut inbox) = console();
    for line in [
        "grep: Kernel panic - not syncing: yesterday",
        "[FAILED] Kernel panic - not syncing: x",
        "Kernel panic",
        "Kernel panic - not syncing: without an end of line",
    ] {
        console.write_all(line.as_bytes()).unwrap();
        if !line.contains("without") {
            console.write_all(b"\n").unwrap();
        }
    }
    assert_eq!(events(&mut inbox), []);
}

#[test]
fn the_first_line_of_user_space_is_the_first_without_a_time() {
    let (mut console, transcript, _inbox) = console();
    console
        .write_all(b"[    0.000000] Linux version 6.1\r\n\r\n")
        .unwrap();
    assert_eq!(transcript.first_of_user(), None);
    console.write_all(b"Welcome").unwrap();
    assert_eq!(transcript.first_of_user(), None);
    console.write_all(b" to Debian\r\n").unwrap();
    let first = transcript.first_of_user();
    assert!(first.is_some());
    console.write_all(b"login:\n").unwrap();
    assert_eq!(transcript.first_of_user(), first);
}

#[test]
fn a_restart_begins_a_line() {
    let (mut console, transcript, mut inbox) = console();
    console.write_all(b"half").unwrap();
    transcript.cut();
    console
        .write_all(b"Kernel panic - not syncing: x\n")
        .unwrap();
    assert_eq!(
        events(&mut inbox),
        [GuestEvent::PanicPrinted("x".to_owned())]
    );
}
