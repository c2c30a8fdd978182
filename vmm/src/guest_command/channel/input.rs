//! What travels to the guest: standard input, and the size of the terminal.
//!
//! One thread reads, so that keys for this program are seen also while the guest takes nothing;
//! another sends, a frame at a time, as the guest takes them. Both end with the program: nothing
//! else ends a read of a terminal.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use rustix::{io::Errno, termios::tcgetwinsize};
use signal_hook::{consts::SIGWINCH, low_level::pipe};

use super::{Credit, frame};
use crate::machine::{Keys, Message, Post};

/// Frames that wait to be sent. On a terminal what is typed beyond that is lost.
const WAITING: usize = 256;

enum Item {
    Bytes(Vec<u8>),
    End,
    /// The terminal has another size.
    Window,
}

/// Starts the threads.
pub(super) fn start(
    frames: UnixStream,
    credit: Arc<Credit>,
    post: Arc<OnceLock<Post>>,
    on_terminal: bool,
) -> io::Result<()> {
    let (items, waiting) = sync_channel(WAITING);
    if on_terminal {
        watch_size(items.clone())?;
    }
    let named = |name: &str| thread::Builder::new().name(name.to_owned());
    named("stdin").spawn(move || {
        if on_terminal {
            read_keys(&items, &post);
        } else {
            read_stream(&items);
        }
    })?;
    named("input").spawn(move || send(frames, &waiting, &credit))?;
    Ok(())
}

/// What standard input has next; `None` at its end.
fn read(bytes: &mut [u8]) -> Option<usize> {
    loop {
        match rustix::io::read(io::stdin(), &mut *bytes) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return None,
            Ok(count) => return Some(count),
        }
    }
}

fn read_stream(items: &SyncSender<Item>) {
    let mut bytes = [0; frame::MAX_INPUT];
    while let Some(count) = read(&mut bytes) {
        if items.send(Item::Bytes(bytes[..count].to_vec())).is_err() {
            return;
        }
    }
    // If this fails nobody is left to report it to.
    let _ = items.send(Item::End);
}

/// As [`read_stream`], with a way out: Ctrl-A X.
fn read_keys(items: &SyncSender<Item>, post: &OnceLock<Post>) {
    let (mut keys, mut bytes) = (Keys::default(), [0; frame::MAX_INPUT]);
    while let Some(count) = read(&mut bytes) {
        let kept = keys.apply(&mut bytes[..count]);
        if keys.leave() {
            post.wait().send(Message::Leave);
        }
        keys.show_help();
        if kept > 0 {
            let _ = items.try_send(Item::Bytes(bytes[..kept].to_vec()));
        }
    }
    let _ = items.try_send(Item::End);
}

/// Tells of each change of the terminal's size.
fn watch_size(items: SyncSender<Item>) -> io::Result<()> {
    let (mut changes, signals) = UnixStream::pair()?;
    pipe::register(SIGWINCH, signals)?;
    thread::Builder::new()
        .name("terminal".to_owned())
        .spawn(move || {
            while let Ok(1..) = changes.read(&mut [0; 16]) {
                // What waits already is looked at later than this.
                let _ = items.try_send(Item::Window);
            }
        })?;
    Ok(())
}

fn send(mut frames: UnixStream, items: &Receiver<Item>, credit: &Credit) {
    while let Ok(item) = items.recv() {
        let ended = matches!(item, Item::End);
        let frame = match item {
            Item::Bytes(bytes) => frame::encode(frame::INPUT, &bytes),
            Item::End => frame::encode(frame::INPUT_END, &[]),
            Item::Window => match tcgetwinsize(io::stdout()) {
                Ok(size) => {
                    let [rows, columns] = [size.ws_row, size.ws_col].map(u16::to_le_bytes);
                    frame::encode(frame::WINDOW, &[rows, columns].concat())
                }
                Err(_) => continue,
            },
        };
        credit.take();
        if frames.write_all(&frame).is_err() || ended {
            return;
        }
    }
}
