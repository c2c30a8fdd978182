//! Clients that misbehave: none of them may disturb another.

use std::io::{ErrorKind, Read, Write};

use strata_block::api::Event;
use strata_block::api::JobStatus;
use strata_vmm::monitor::{MAX_BACKLOG, MAX_CLIENTS, MAX_LINE, MAX_NESTING, MAX_REQUEST, Notice};

use crate::client::{Client, PROMPT};
use crate::fake::Bench;

const STATUS: &str = r#"{"execute": "query-status"}"#;
const RUNNING: &str = r#"{"return": {"status": "running", "running": true}}"#;

impl Bench {
    /// Both languages still serve new clients.
    fn is_undisturbed(&self) {
        assert_eq!(Client::qmp(&self.qmp).ask(STATUS), RUNNING);
        let mut human = Client::hmp(&self.hmp);
        human.send("info status\n");
        assert_eq!(human.until(PROMPT), "VM status: running\r\n");
    }
}

#[test]
fn saying_nothing() {
    let bench = Bench::new();
    let _silent: Vec<Client> = (0..10)
        .flat_map(|_| [Client::connect(&bench.qmp), Client::connect(&bench.hmp)])
        .collect();
    bench.is_undisturbed();
}

#[test]
fn leaving_in_the_middle_of_a_line() {
    let bench = Bench::new();
    Client::qmp(&bench.qmp).send(r#"{"execute": "stop", "id": "#);
    Client::hmp(&bench.hmp).send("system_res");
    Client::hmp(&bench.hmp).send("stop");
    bench.is_undisturbed();
    assert_eq!(
        bench.state.lock().unwrap().seen,
        [],
        "half a line is no command"
    );
}

#[test]
fn sending_byte_by_byte() {
    let bench = Bench::new();
    let mut client = Client::connect(&bench.qmp);
    client.line();
    for byte in format!(r#"{{"execute":"qmp_capabilities"}} {STATUS}"#).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.line(), r#"{"return": {}}"#);
    assert_eq!(client.line(), RUNNING);

    let mut human = Client::hmp(&bench.hmp);
    for byte in "info status\r\n".bytes() {
        human.send([byte]);
    }
    human.send("\ninfo version\n");
    assert_eq!(human.until(PROMPT), "VM status: running\r\n");
    let empty = human.until(PROMPT);
    assert_eq!(empty, "", "one prompt for CR LF, one for the empty line");
    assert!(human.until(PROMPT).starts_with("10."));
}

#[test]
fn sending_much_at_once() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    client.send(STATUS.repeat(500));
    for _ in 0..500 {
        assert_eq!(client.line(), RUNNING);
    }
}

#[test]
fn flooding_without_an_end() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    let flood = vec![b'['; 1]
        .into_iter()
        .chain(b"1,".repeat(MAX_REQUEST))
        .collect::<Vec<u8>>();
    // The monitor hangs up in the middle of it.
    let _ = client.stream.write_all(&flood);
    let said = client.rest();
    let error = format!("QMP input is longer than {MAX_REQUEST} bytes");
    assert!(said.contains(&error) && said.ends_with("}\r\n"), "{said}");
    bench.is_undisturbed();
}

#[test]
fn flooding_with_one_string() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    let _ = client
        .stream
        .write_all(format!("\"{}", "x".repeat(2 * MAX_REQUEST)).as_bytes());
    assert!(client.rest().contains("QMP input is longer than"));
    bench.is_undisturbed();
}

#[test]
fn a_request_just_within_the_limit() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    let frame = r#"{"execute": "query-status", "id": ""}"#.len();
    let id = "x".repeat(MAX_REQUEST - frame);
    let reply = client.ask(&format!(r#"{{"execute": "query-status", "id": "{id}"}}"#));
    assert!(reply.ends_with(&format!(r#""id": "{id}"}}"#)));
}

#[test]
fn a_request_as_deep_as_it_may_be() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    let id = [
        &"[".repeat(MAX_NESTING - 1)[..],
        &"]".repeat(MAX_NESTING - 1),
    ]
    .concat();
    let reply = client.ask(&format!(r#"{{"execute": "query-status", "id": {id}}}"#));
    assert!(reply.ends_with(&format!(r#""id": {id}}}"#)));
}

#[test]
fn flooding_a_line() {
    let bench = Bench::new();
    let mut human = Client::hmp(&bench.hmp);
    human.send(format!(
        "info status{}\n",
        " ".repeat(MAX_LINE - "info status".len())
    ));
    assert_eq!(human.until(PROMPT), "VM status: running\r\n");
    let error = format!("The line is longer than {MAX_LINE} bytes\r\n");
    human.send(format!(
        "info status{}\n",
        " ".repeat(MAX_LINE + 1 - "info status".len())
    ));
    assert_eq!(human.until(PROMPT), error);
    human.send("stop ".repeat(100_000));
    human.send("\ninfo status\n");
    assert_eq!(human.until(PROMPT), error);
    assert_eq!(human.until(PROMPT), "VM status: running\r\n");
}

#[test]
fn sending_garbage() {
    let bench = Bench::new();
    let garbage: Vec<u8> = (0..100_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for path in [&bench.qmp, &bench.hmp] {
        let mut client = Client::connect(path);
        let mut reader = client.stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        client.send(&garbage);
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        reading.join().unwrap().unwrap();
        bench.is_undisturbed();
    }
}

#[test]
fn not_reading_replies() {
    let bench = Bench::new();
    let mut client = Client::qmp(&bench.qmp);
    client.stream.set_nonblocking(true).unwrap();
    let (mut sent, mut refusals) = (0, 0);
    // Until the monitor has stopped reading, and not only been slow to read.
    while refusals < 50 {
        match client
            .stream
            .write(&STATUS.as_bytes()[sent % STATUS.len()..])
        {
            Ok(length) => {
                sent += length;
                refusals = 0;
                assert!(sent < 4 * MAX_BACKLOG, "it takes requests without end");
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bench.is_undisturbed();
                refusals += 1;
            }
            Err(error) => panic!("the monitor must not hang up: {error}"),
        }
    }
    // Nothing is lost: reading makes room again.
    client.stream.set_nonblocking(false).unwrap();
    for _ in 0..sent / STATUS.len() {
        assert_eq!(client.line(), RUNNING);
    }
}

/// Has the machine send `count` events; the reader takes each before the next is sent.
fn flood_with_events(bench: &Bench, reader: &mut Client, count: usize) {
    for round in 0..count {
        let id = format!("job{round}");
        let event = Event::JobStatusChange {
            id: id.clone(),
            status: JobStatus::Running,
        };
        bench.notifier.notify(Notice::Block(event));
        let line = reader.line();
        assert!(line.contains(&format!(r#""{id}""#)), "{line}");
    }
}

#[test]
fn reading_events_late() {
    let bench = Bench::new();
    let (mut late, mut reader) = (Client::qmp(&bench.qmp), Client::qmp(&bench.qmp));
    // More than a socket holds, less than the monitor keeps.
    let count = MAX_BACKLOG / 200;
    flood_with_events(&bench, &mut reader, count);
    for round in 0..count {
        let line = late.line();
        assert!(line.contains(&format!(r#""job{round}""#)), "{line}");
    }
}

#[test]
fn not_reading_events() {
    let bench = Bench::new();
    let (mut deaf, mut reader) = (Client::qmp(&bench.qmp), Client::qmp(&bench.qmp));
    flood_with_events(&bench, &mut reader, 2 * MAX_BACKLOG / 100);
    // The one that reads has had every event; the other one has been dropped.
    let mut text = Vec::new();
    let ended = deaf.stream.read_to_end(&mut text);
    let timed_out = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(!timed_out && text.len() < MAX_BACKLOG);
    bench.is_undisturbed();
}

#[test]
fn too_many_clients() {
    let bench = Bench::new();
    let mut inside: Vec<Client> = (0..MAX_CLIENTS).map(|_| Client::qmp(&bench.qmp)).collect();
    assert_eq!(
        Client::connect(&bench.qmp).rest(),
        "",
        "the next one is turned away"
    );
    assert_eq!(inside[0].ask(STATUS), RUNNING);
    inside.truncate(MAX_CLIENTS - 2);
    // Those who have left are noticed no later than this is answered.
    assert_eq!(inside[0].ask(STATUS), RUNNING);
    bench.is_undisturbed();
}

#[test]
fn too_many_silent_clients() {
    let bench = Bench::new();
    let mut speaker = Client::qmp(&bench.qmp);
    let mut silent: Vec<Client> = (0..3 * MAX_CLIENTS)
        .map(|_| Client::connect(&bench.qmp))
        .collect();
    // Those who have said nothing for longest make room for those who come.
    bench.is_undisturbed();
    assert_eq!(speaker.ask(STATUS), RUNNING);
    // Returns, because the connection has ended.
    silent.remove(0).rest();
    silent.pop().unwrap().line();
}
