//! A client of the machine-readable monitor.

use crate::error::{Context, Failed, Outcome};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(60);

/// An event, and when it was received.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it was received.
    pub at: Instant,
    /// The whole object.
    pub value: Value,
}

impl Event {
    /// `event`.
    pub fn name(&self) -> &str {
        self.value["event"].as_str().unwrap_or_default()
    }

    /// Name and, for a change of a job's state, the state: enough to read a sequence of them.
    pub fn summary(&self) -> String {
        match self.value["data"]["status"].as_str() {
            Some(status) if self.name() == "JOB_STATUS_CHANGE" => status.to_owned(),
            _ => self.name().to_owned(),
        }
    }
}

#[derive(Default)]
struct Inbox {
    events: Vec<Event>,
    answers: Vec<Value>,
    is_closed: bool,
}

/// A connection to `--qmp unix:PATH`, capabilities negotiated.
pub struct Qmp {
    socket: UnixStream,
    inbox: Arc<(Mutex<Inbox>, Condvar)>,
    next_id: u64,
}

impl Qmp {
    /// Connects, reads the greeting and negotiates. What arrives is also written to `transcript`.
    pub fn connect(path: &Path, transcript: &Path) -> Outcome<Qmp> {
        let socket = UnixStream::connect(path).context(format!("QMP {}", path.display()))?;
        let mut reader = BufReader::new(socket.try_clone().context("QMP")?);
        let mut greeting = String::new();
        reader.read_line(&mut greeting).context("QMP greeting")?;
        let value: Value = serde_json::from_str(&greeting).context("QMP greeting")?;
        value
            .get("QMP")
            .context(format!("not a QMP greeting: {greeting}"))?;
        let inbox = Arc::default();
        let filled = Arc::clone(&inbox);
        let transcript = File::create(transcript).context(transcript.display())?;
        thread::spawn(move || fill(reader, &filled, transcript));
        let mut qmp = Qmp {
            socket,
            inbox,
            next_id: 0,
        };
        qmp.run("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns the whole answer, `return` or `error`.
    pub fn send(&mut self, command: &str, arguments: Value) -> Outcome<Value> {
        self.next_id += 1;
        let id = self.next_id;
        let line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        self.socket
            .write_all((line + "\r\n").as_bytes())
            .context(format!("QMP {command}"))?;
        self.wait(TIMEOUT, |inbox| {
            let position = inbox.answers.iter().position(|answer| answer["id"] == id)?;
            Some(inbox.answers.swap_remove(position))
        })
        .context(format!("QMP {command}"))
    }

    /// Executes a command that must succeed and returns `return`.
    pub fn run(&mut self, command: &str, arguments: Value) -> Outcome<Value> {
        let answer = self.send(command, arguments)?;
        let value = answer.get("return").cloned();
        value.context(format!("QMP {command} was answered with: {answer}"))
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        let inbox = self.inbox.0.lock().expect("no holder panics");
        inbox.events.clone()
    }

    /// Waits for an event of this name after the first `skip` events of any name.
    pub fn wait_event(&self, name: &str, skip: usize, timeout: Duration) -> Outcome<Event> {
        self.wait(timeout, |inbox| {
            inbox
                .events
                .iter()
                .skip(skip)
                .find(|event| event.name() == name)
                .cloned()
        })
        .context(format!("QMP event {name}"))
    }

    fn wait<T>(
        &self,
        timeout: Duration,
        mut take: impl FnMut(&mut Inbox) -> Option<T>,
    ) -> Outcome<T> {
        let end = Instant::now() + timeout;
        let (inbox, changed) = &*self.inbox;
        let mut inbox = inbox.lock().expect("no holder panics");
        loop {
            if let Some(value) = take(&mut inbox) {
                return Ok(value);
            }
            if inbox.is_closed {
                return Err(Failed("the connection was closed".to_owned()));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failed(format!("nothing after {timeout:?}")));
            }
            inbox = changed
                .wait_timeout(inbox, left)
                .expect("no holder panics")
                .0;
        }
    }
}

fn fill(reader: BufReader<UnixStream>, inbox: &(Mutex<Inbox>, Condvar), mut transcript: File) {
    for line in reader.lines().map_while(Result::ok) {
        // A transcript that cannot be written is no reason to stop listening.
        let _ = writeln!(transcript, "{line}");
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let mut guard = inbox.0.lock().expect("no holder panics");
        if value.get("event").is_some() {
            guard.events.push(Event {
                at: Instant::now(),
                value,
            });
        } else {
            guard.answers.push(value);
        }
        inbox.1.notify_all();
    }
    inbox.0.lock().expect("no holder panics").is_closed = true;
    inbox.1.notify_all();
}
