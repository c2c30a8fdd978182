//! A QMP client: commands and their answers, and the events that come between.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::error::CtlError;

/// A server that says nothing for so long does not speak QMP.
const GREETING: Duration = Duration::from_secs(5);

/// One message at most. Descriptions of long chains are tens of megabytes.
const MAX_MESSAGE: usize = 256 << 20;

/// Something that happened on the other side.
#[derive(Debug)]
pub(super) struct Event {
    pub name: String,
    /// Its members; empty for many.
    pub data: Value,
}

/// A connection whose capabilities have been negotiated.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    /// What has come and is not yet a message.
    input: Vec<u8>,
    /// How much of `input` is known to have no end of a line.
    searched: usize,
    events: VecDeque<Event>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody is there, or somebody who does not speak QMP.
    pub fn connect(path: &Path) -> Result<Self, CtlError> {
        let stream = UnixStream::connect(path).map_err(|error| not_connected(path, error))?;
        let mut client = Self {
            stream,
            input: Vec::new(),
            searched: 0,
            events: VecDeque::new(),
        };
        client.greet().map_err(|why| {
            let path = path.into();
            CtlError::NotQmp { path, why }
        })?;
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// Reads the greeting. Other protocols are told from it by the first byte, since some of them
    /// never end their line.
    fn greet(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + GREETING;
        let silent = "nothing comes from it";
        while self.input.is_empty() {
            let more = self.read_more(Some(deadline));
            let more = more.map_err(|error| error.to_string())?;
            if !more && Instant::now() >= deadline {
                return Err(silent.to_owned());
            }
        }
        if self.input[0] != b'{' {
            let said = String::from_utf8_lossy(&self.input);
            let line = said.lines().next().unwrap_or_default();
            let line: String = line.chars().filter(|c| !c.is_control()).take(40).collect();
            return Err(format!("it begins with '{line}'"));
        }
        let greeting = self.message(Some(deadline));
        match greeting.map_err(|error| error.to_string())? {
            Some(greeting) if greeting.get("QMP").is_some() => Ok(()),
            Some(_) => Err("it does not greet".to_owned()),
            None => Err(silent.to_owned()),
        }
    }

    /// Has a command carried out, and returns what it returns.
    ///
    /// # Errors
    /// [`CtlError::Refused`] in the other side's words; the connection.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, CtlError> {
        self.request(json!({"execute": command, "arguments": arguments}))
    }

    /// Sends a request, and waits for its answer. Events are kept.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub fn request(&mut self, request: Value) -> Result<Value, CtlError> {
        let sent = self.stream.write_all(format!("{request}\n").as_bytes());
        sent.map_err(|error| CtlError::Disconnected(error.to_string()))?;
        loop {
            let Some(mut message) = self.message(None)? else {
                continue;
            };
            if let Some(value) = message.remove("return") {
                return Ok(value);
            }
            if let Some(error) = message.remove("error") {
                return Err(CtlError::Refused(text(&error, "desc").to_owned()));
            }
            self.keep_event(message);
        }
    }

    /// The next event, if one comes before `deadline` and no signal does.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn event(&mut self, deadline: Instant) -> Result<Option<Event>, CtlError> {
        if self.events.is_empty()
            && let Some(message) = self.message(Some(deadline))?
        {
            self.keep_event(message);
        }
        Ok(self.events.pop_front())
    }

    fn keep_event(&mut self, mut message: Map<String, Value>) {
        if let Some(Value::String(name)) = message.remove("event") {
            let data = message.remove("data").unwrap_or_default();
            self.events.push_back(Event { name, data });
        }
    }

    /// The next message, if it comes before `deadline` and no signal does.
    fn message(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<Map<String, Value>>, CtlError> {
        loop {
            let end = self.input[self.searched..].iter().position(|b| *b == b'\n');
            if let Some(end) = end {
                let line: Vec<u8> = self.input.drain(..=self.searched + end).collect();
                self.searched = 0;
                let message = serde_json::from_slice(&line);
                let message = message
                    .map_err(|error| gone(format!("it sends what is no message: {error}")))?;
                return Ok(Some(message));
            }
            self.searched = self.input.len();
            if self.input.len() > MAX_MESSAGE {
                return Err(gone("it sends a message without an end"));
            }
            if !self.read_more(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Takes more bytes; `false` if none came before `deadline`, or a signal did.
    fn read_more(&mut self, deadline: Option<Instant>) -> Result<bool, CtlError> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // No time at all would mean for ever.
        let left = left.map(|left| left.max(Duration::from_millis(1)));
        let mut chunk = [0; 64 << 10];
        let read = self.stream.set_read_timeout(left);
        match read.and_then(|()| self.stream.read(&mut chunk)) {
            Ok(0) => Err(gone("the program behind it has ended")),
            Ok(len) => {
                self.input.extend_from_slice(&chunk[..len]);
                Ok(true)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(false),
                _ => Err(gone(error.to_string())),
            },
        }
    }

    /// The id of the disk that `name` means, which may be the node name of its top.
    ///
    /// # Errors
    /// There is none; the ids of those that there are.
    pub fn disk(&mut self, name: &str) -> Result<String, CtlError> {
        let disks = self.execute("query-block", json!({}))?;
        let disks = disks.as_array().map_or(&[][..], Vec::as_slice);
        let id = |disk: &Value| text(disk, "device").to_owned();
        let is_it = |disk: &&Value| {
            let top = text(&disk["inserted"], "node-name");
            text(disk, "device") == name || top == name && !top.is_empty()
        };
        if let Some(found) = disks.iter().find(is_it) {
            return Ok(id(found));
        }
        let ids: Vec<_> = disks.iter().map(id).collect();
        Err(CtlError::Refused(match &ids[..] {
            [] => format!("no disk is called '{name}': there are none"),
            [only] => format!("no disk is called '{name}': there is '{only}'"),
            [more @ .., last] => {
                let more = more.join("', '");
                format!("no disk is called '{name}': there are '{more}' and '{last}'")
            }
        }))
    }
}

fn gone(why: impl Into<String>) -> CtlError {
    CtlError::Disconnected(why.into())
}

fn not_connected(path: &Path, error: io::Error) -> CtlError {
    let path = PathBuf::from(path);
    let is_socket = path.metadata().map(|file| file.file_type().is_socket());
    match (error.kind(), is_socket) {
        (ErrorKind::NotFound, _) => CtlError::NoSocket(path),
        (ErrorKind::ConnectionRefused, Ok(false)) => CtlError::NotASocket(path),
        (ErrorKind::ConnectionRefused, _) => CtlError::NobodyListens(path),
        _ => CtlError::Connect { path, why: error },
    }
}

/// A member that is a string; empty if there is none.
pub(super) fn text<'a>(object: &'a Value, member: &str) -> &'a str {
    object[member].as_str().unwrap_or_default()
}

/// A member that is a number; 0 if there is none.
pub(super) fn number(object: &Value, member: &str) -> u64 {
    object[member].as_u64().unwrap_or_default()
}
