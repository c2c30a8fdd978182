//! Why something was not done.

use std::{io, path::PathBuf};

/// One line for people.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// No socket is called so.
    #[error("there is no socket '{}': start strata with --qmp unix:{}", .0.display(), .0.display())]
    NoSocket(PathBuf),
    /// The file is no socket.
    #[error("'{}' is not a socket: give the one that strata's --qmp unix:PATH names", .0.display())]
    NotASocket(PathBuf),
    /// The program has ended without removing it.
    #[error("nobody listens at '{}': the program that made it has ended", .0.display())]
    NobodyListens(PathBuf),
    /// Another reason not to connect.
    #[error("could not connect to '{}': {why}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the host says.
        why: io::Error,
    },
    /// The other side does not speak QMP.
    #[error("'{}' is not a QMP socket: {why}", .path.display())]
    NotQmp {
        /// The socket.
        path: PathBuf,
        /// What it does instead.
        why: String,
    },
    /// The other side has gone.
    #[error("the connection has ended: {0}")]
    Disconnected(String),
    /// A QMP error, in its words.
    #[error("{0}")]
    Refused(String),
    /// Another version's answer.
    #[error("the answer is not what this version expects: {0}")]
    Reply(#[source] serde_json::Error),
    /// What was typed is not JSON.
    #[error("the command is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// What was typed is no command.
    #[error(r#"a command is written as {{"execute": "query-block"}}"#)]
    NoCommand,
    /// The current directory is not known.
    #[error("the current directory is not known: {0}")]
    Directory(#[source] io::Error),
    /// JSON has no such strings.
    #[error("the name '{}' is not UTF-8", .0.display())]
    Name(PathBuf),
    /// Standard output is gone.
    #[error("could not write to standard output: {0}")]
    Output(#[source] io::Error),
    /// A job that was waited for has failed, or has been cancelled.
    #[error("{0}")]
    Job(String),
    /// Ctrl-C, while a job was waited for.
    #[error("{0}")]
    Interrupted(String),
}

impl CtlError {
    /// The exit status that says so.
    pub fn exit_status(&self) -> u8 {
        match self {
            // As shells have it of a program that SIGINT has ended.
            Self::Interrupted(_) => 130,
            _ => 1,
        }
    }
}
