//! Commands that take long: whose turn it is, and what is not lost meanwhile.

use std::net::Shutdown;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use strata_block::api::{Event, JobStatus, Reply};
use strata_vmm::monitor::{
    Answer, Doors, Endpoint, MAX_BACKLOG, MAX_READ_AHEAD, Mailbox, Monitor, Notice, Protocol,
    REPLY_BACKLOG,
};

use crate::client::{Client, PROMPT};
use crate::fake::{Bench, generic, machine};

const SNAPSHOT: &str = r#"{"execute": "blockdev-snapshot-sync", "id": "slow",
    "arguments": {"device": "virtio0", "snapshot-file": "/b"}}"#;
const STATUS: &str = r#"{"execute": "query-status"}"#;
const RUNNING: &str = r#"{"return": {"status": "running", "running": true}}"#;

impl Bench {
    /// From now on snapshots are not answered.
    fn hold(&self) {
        self.state.lock().unwrap().held = Some(Vec::new());
    }

    /// Waits for the snapshot to reach the machine, and takes its answer.
    fn held(&self) -> Answer {
        loop {
            let held = self.state.lock().unwrap().held.as_mut().unwrap().pop();
            match held {
                Some(answer) => return answer,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn tell(&self, id: &str) {
        let event = Event::JobStatusChange {
            id: id.to_owned(),
            status: JobStatus::Running,
        };
        self.notifier.notify(Notice::Block(event));
    }
}

#[test]
fn a_slow_command_holds_up_its_own_client_alone() {
    let bench = Bench::new();
    bench.hold();
    let (mut slow, mut other) = (Client::qmp(&bench.qmp), Client::qmp(&bench.qmp));
    let mut human = Client::hmp(&bench.hmp);
    slow.send(format!("{SNAPSHOT}{STATUS}"));
    let answer = bench.held();

    assert_eq!(other.ask(STATUS), RUNNING);
    human.send("info status\n");
    assert_eq!(human.until(PROMPT), "VM status: running\r\n");
    // Events overtake the reply that is still to come.
    bench.tell("x");
    assert!(slow.line().contains(r#""event": "JOB_STATUS_CHANGE""#));
    assert!(other.line().contains(r#""event": "JOB_STATUS_CHANGE""#));

    answer.send(Ok(Reply::Done));
    assert_eq!(slow.line(), r#"{"return": {}, "id": "slow"}"#);
    assert_eq!(slow.line(), RUNNING, "the next request had to wait");
}

#[test]
fn a_slow_human_command_gives_its_prompt_when_it_is_done() {
    let bench = Bench::new();
    bench.hold();
    let mut human = Client::hmp(&bench.hmp);
    human.send("snapshot_blkdev virtio0 /b\ninfo status\n");
    bench.held().send(Err(generic("No space left on device")));
    assert_eq!(human.until(PROMPT), "Error: No space left on device\r\n");
    assert_eq!(human.until(PROMPT), "VM status: running\r\n");
}

#[test]
fn an_answer_that_never_comes_is_an_error() {
    let bench = Bench::new();
    bench.hold();
    let mut client = Client::qmp(&bench.qmp);
    client.send(SNAPSHOT);
    drop(bench.held());
    let reply = client.line();
    assert!(
        reply.contains("The machine ended before it answered"),
        "{reply}"
    );
    assert!(reply.starts_with(r#"{"id": "slow", "error": "#), "{reply}");
}

#[test]
fn a_client_that_leaves_during_its_command_is_not_missed() {
    let bench = Bench::new();
    bench.hold();
    let (mut client, mut other) = (Client::qmp(&bench.qmp), Client::qmp(&bench.qmp));
    client.send(format!("{SNAPSHOT}{{'execute': 'stop'}}"));
    let answer = bench.held();
    drop(client);
    answer.send(Ok(Reply::Done));
    // What it had asked for is done all the same.
    assert!(other.line().contains("STOP"));
}

#[test]
fn a_client_that_does_not_wait_is_obeyed_to_the_end() {
    let bench = Bench::new();
    let (mut client, mut other) = (Client::qmp(&bench.qmp), Client::qmp(&bench.qmp));
    let space = " ".repeat(MAX_READ_AHEAD);
    client.send(format!("{STATUS}{space}{{'execute': 'system_reset'}}"));
    drop(client);
    assert!(other.line().contains("RESET"));
}

#[test]
fn events_keep_their_place_among_replies() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    for round in 0..100 {
        bench.tell(&format!("job{round}"));
        client.send(STATUS);
    }
    let lines: Vec<String> = (0..200).map(|_| client.line()).collect();
    let events: Vec<&String> = lines.iter().filter(|line| line.contains("event")).collect();
    assert_eq!(events.len(), 100);
    for (round, event) in events.iter().enumerate() {
        assert!(
            event.contains(&format!(r#""id": "job{round}"}}"#)),
            "{event}"
        );
    }
}

#[test]
fn what_was_sent_before_a_half_close_is_answered() {
    // As `printf ... | socat - UNIX-CONNECT:...` does it.
    let bench = Bench::new();
    let mut client = Client::connect(&bench.qmp);
    client.send(format!(
        r#"{{"execute": "qmp_capabilities"}}{STATUS}{SNAPSHOT}"#
    ));
    client.stream.shutdown(Shutdown::Write).unwrap();
    let expected = format!("{{\"return\": {{}}}}\r\n{RUNNING}\r\n");
    client.line();
    assert_eq!(
        client.rest(),
        expected + "{\"return\": {}, \"id\": \"slow\"}\r\n"
    );

    let mut human = Client::connect(&bench.hmp);
    human.send("info status\ninfo sta");
    human.stream.shutdown(Shutdown::Write).unwrap();
    human.until(PROMPT);
    assert_eq!(human.rest(), format!("VM status: running\r\n{PROMPT}"));
}

#[test]
fn a_half_closed_client_is_sent_more_than_its_socket_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pair");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path);
    let (narrow, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&narrow, 1).unwrap();

    let mailbox = Mailbox::new().unwrap();
    let (_, machine) = machine(mailbox.notifier());
    let other = directory.path().join("qmp");
    let endpoints = [
        Endpoint::Fd(narrow.into_raw_fd()),
        Endpoint::Unix(other.clone()),
    ];
    let endpoints = endpoints.map(|endpoint| (Protocol::Qmp, endpoint));
    let _monitor = Monitor::start(Doors::open(&endpoints).unwrap(), machine, mailbox).unwrap();

    // All of it is executed, and most of the replies are still queued, when the end is noticed.
    let count = REPLY_BACKLOG / RUNNING.len() / 2;
    client.send(r#"{"execute": "qmp_capabilities"}"#);
    client.send(STATUS.repeat(count));
    client.stream.shutdown(Shutdown::Write).unwrap();
    let mut other = Client::qmp(&other);
    for _ in 0..count {
        assert_eq!(other.ask(STATUS), RUNNING);
    }
    client.line();
    assert_eq!(client.line(), r#"{"return": {}}"#);
    assert_eq!(client.rest(), format!("{RUNNING}\r\n").repeat(count));
}

#[test]
fn the_end_waits_for_clients_to_take_what_is_queued() {
    let mut bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    let count = MAX_BACKLOG / 200;
    (0..count).for_each(|_| bench.tell("x"));
    let monitor = bench.monitor.take();
    let ending = std::thread::spawn(move || drop(monitor));
    (0..count).for_each(|_| assert!(client.line().contains("JOB_STATUS_CHANGE")));
    assert_eq!(client.rest(), "");
    ending.join().unwrap();
}

#[test]
fn the_end_sends_what_is_queued() {
    let mut bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    assert_eq!(client.ask(STATUS), RUNNING);
    bench.tell("last");
    drop(bench.monitor.take());
    let rest = client.rest();
    assert!(
        rest.contains(r#""id": "last"}"#) && rest.ends_with("}\r\n"),
        "{rest}"
    );
    assert!(!bench.qmp.exists() && !bench.hmp.exists());
}
