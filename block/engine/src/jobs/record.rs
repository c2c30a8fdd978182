//! What is recorded of a job, so that it outlives its process.
//!
//! A record says what the job was asked for, which files it concerns and how far it has come. It is
//! one line that names format, version and checksum, and JSON after it. Whatever else a file holds
//! is not acted on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use strata_graph::Node;
use strata_storage::{Identity, absolute_name};

use super::Ending;
use crate::api::{Cmd, JobType};

/// How a record begins.
const MAGIC: &str = "strata-job 1 ";

/// Bytes of a record at most.
pub(crate) const MOST: u64 = 256 << 10;

/// One job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Record {
    /// Its id.
    pub id: String,
    /// What it does to the layers.
    pub shape: Shape,
    /// The disk's id.
    pub disk: String,
    /// Bytes a second, 0 for no limit.
    pub speed: u64,
    /// What it was asked for. Node names in it are those of the process that has gone.
    pub cmd: Cmd,
    /// The layers that it concerns, from the uppermost one down to the base.
    pub layers: Vec<Layer>,
    /// How far it has come.
    pub state: State,
}

/// What a job does to the layers of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// The first becomes one that stands alone.
    Stream,
    /// The first gets what it lacks down to the last, on which it will lie.
    StreamToBase,
    /// The last gets what those below the first hold, which will lie on it.
    Commit,
    /// The last gets what those above it hold, of which the first is the disk's top.
    CommitTop,
}

impl Shape {
    pub fn kind(self) -> JobType {
        match self {
            Self::Stream | Self::StreamToBase => JobType::Stream,
            Self::Commit | Self::CommitTop => JobType::Commit,
        }
    }
}

/// A layer, as it was when the job began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Layer {
    path: PathBuf,
    file: FileId,
    /// Bytes that it shows.
    size: u64,
    format: String,
}

/// Which file of the host it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum FileId {
    /// The file system may have another number after the host has started again.
    File { device: u64, inode: u64 },
    /// Whatever has its name: a device, an export.
    Name,
}

/// How far a job has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum State {
    /// It works. All before this byte is done and durable.
    Working(u64),
    /// Everything is in place, also of the jobs that it ends with: what is left is to change
    /// headers and graph.
    Decided(Option<Ending>),
    /// It is over, and nobody has dismissed it.
    #[serde(rename_all = "kebab-case")]
    Concluded {
        /// Why it failed.
        error: Option<String>,
        /// Bytes to look at.
        len: u64,
        /// Bytes looked at.
        offset: u64,
    },
}

impl Layer {
    pub fn of(node: &Node) -> Self {
        let file = match node.image().storage().identity() {
            Ok(Identity::File { device, inode }) => FileId::File { device, inode },
            _ => FileId::Name,
        };
        Self {
            path: absolute_name(node.path()),
            file,
            size: node.size(),
            format: node.format().to_string(),
        }
    }

    /// Whether `node` is the layer that this was made of, whatever it shows by now.
    pub fn is(&self, node: &Node) -> bool {
        let found = Self::of(node);
        let same_name = found.path == self.path;
        self.format == found.format
            && match (&self.file, &found.file) {
                (
                    FileId::File { device, inode },
                    FileId::File {
                        device: other,
                        inode: found,
                    },
                ) => inode == found && (device == other || same_name),
                (one, other) => one == other && same_name,
            }
    }

    /// Bytes that it showed.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What people call it.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }
}

impl Record {
    /// The group that the job ends with.
    pub fn group(&self) -> Option<&str> {
        self.cmd.group()
    }

    /// Whether nobody wants to know what has come of the job.
    pub fn auto_dismiss(&self) -> bool {
        let given = match &self.cmd {
            Cmd::BlockStream(cmd) => cmd.auto_dismiss,
            Cmd::BlockCommit(cmd) => cmd.auto_dismiss,
            _ => None,
        };
        given.unwrap_or(true)
    }

    /// All jobs of its group have their data in place: so the job is to end well.
    pub fn decide(&mut self) {
        let completes = self.shape == Shape::CommitTop;
        self.state = State::Decided(completes.then_some(Ending::TakeOver));
    }

    /// Whether its parts go together.
    fn is_consistent(&self) -> bool {
        let least = match self.shape {
            Shape::Stream => 1,
            Shape::StreamToBase | Shape::CommitTop => 2,
            Shape::Commit => 3,
        };
        let kind = match self.cmd {
            Cmd::BlockStream(_) => Some(JobType::Stream),
            Cmd::BlockCommit(_) => Some(JobType::Commit),
            _ => None,
        };
        kind == Some(self.shape.kind()) && self.layers.len() >= least
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// It cannot be written down, and why: a path that is not text.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        json.push(b'\n');
        if json.len() as u64 > MOST / 2 {
            return Err("the record would be too long".to_owned());
        }
        let mut bytes = format!("{MAGIC}{:08x}\n", crc32fast::hash(&json)).into_bytes();
        bytes.extend(json);
        Ok(bytes)
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// They are no record, and why.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > MOST {
            return Err("it is too long".to_owned());
        }
        let rest = bytes.strip_prefix(MAGIC.as_bytes());
        let rest = rest.ok_or("it does not begin as a record of version 1 does")?;
        let (sum, json) = rest
            .split_at_checked(8)
            .and_then(|(sum, rest)| Some((sum, rest.strip_prefix(b"\n")?)))
            .ok_or("it ends too early")?;
        if sum != format!("{:08x}", crc32fast::hash(json)).as_bytes() {
            return Err("its checksum does not fit".to_owned());
        }
        let record: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if record.is_consistent() {
            Ok(record)
        } else {
            Err("what it says does not go together".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
