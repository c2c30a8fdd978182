//! The client in front of servers that break the protocol: an error each time, never more.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use strata_graph::Format;

use crate::servers::Bench;

const SIZE: u64 = 1 << 20;

/// What a server does with a connection, until one of the two has had enough.
type Script = fn(UnixStream) -> Option<()>;

/// Serves every connection with `serve`, until the process ends.
fn liar(
    bench: &Bench,
    name: &str,
    serve: impl Fn(UnixStream) -> Option<()> + Send + 'static,
) -> String {
    let socket = bench.path(name);
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // What the client makes of it is looked at on the other side.
            let _ = serve(client.unwrap());
        }
    });
    format!("nbd+unix:///x?socket={}", socket.display())
}

fn send(mut stream: &UnixStream, parts: &[&[u8]]) -> Option<()> {
    stream.write_all(&parts.concat()).ok()
}

fn get(mut stream: &UnixStream, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn greet(stream: &UnixStream) -> Option<()> {
    send(stream, &[b"NBDMAGICIHAVEOPT\0\x03"])?;
    get(stream, 4).map(|_| ())
}

/// The next option.
fn option(stream: &UnixStream) -> Option<[u8; 4]> {
    let head = get(stream, 16)?;
    let len = u32::from_be_bytes(head[12..16].try_into().unwrap());
    get(stream, len as usize)?;
    head[8..12].try_into().ok()
}

fn answer(stream: &UnixStream, option: [u8; 4], kind: u32, data: &[u8]) -> Option<()> {
    let len = (data.len() as u32).to_be_bytes();
    let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
    send(stream, &[&magic, &option, &kind.to_be_bytes(), &len, data])
}

/// A whole handshake, with structured replies if `structured`.
fn shake_hands(stream: &UnixStream, structured: bool) -> Option<()> {
    enter(stream, structured, SIZE)
}

/// A whole handshake that promises so many bytes.
fn announce(stream: &UnixStream, size: u64) -> Option<()> {
    enter(stream, false, size)
}

fn enter(stream: &UnixStream, structured: bool, size: u64) -> Option<()> {
    greet(stream)?;
    loop {
        let option = option(stream)?;
        match option[3] {
            8 if structured => answer(stream, option, 1, &[])?,
            7 => {
                let export = [&[0, 0][..], &size.to_be_bytes(), &[0, 1]].concat();
                answer(stream, option, 3, &export)?;
                return answer(stream, option, 1, &[]);
            }
            _ => answer(stream, option, (1 << 31) + 1, &[])?,
        }
    }
}

#[test]
fn in_the_handshake() {
    let bench = Bench::new();
    let cases: [(&str, Script, &str); 8] = [
        ("largest", |s| announce(&s, u64::MAX), "2^63 bytes or more"),
        ("large", |s| announce(&s, 1 << 63), "2^63 bytes or more"),
        ("silence", |_| Some(()), "closed by the other side"),
        (
            "garbage",
            |s| send(&s, &[&[7; 4096]]),
            "not a server of the newstyle protocol",
        ),
        (
            "old",
            |s| send(&s, &[b"NBDMAGICIHAVEOPT\0\0"]),
            "fixed newstyle",
        ),
        (
            "magic",
            |s| {
                greet(&s)?;
                option(&s)?;
                send(&s, &[&[7; 20]])
            },
            "malformed reply to an option",
        ),
        (
            "endless",
            |s| {
                greet(&s)?;
                loop {
                    let asked = option(&s)?;
                    if asked[3] == 7 {
                        loop {
                            answer(&s, asked, 3, &[0, 9])?;
                        }
                    }
                    answer(&s, asked, (1 << 31) + 1, &[])?;
                }
            },
            "too many replies",
        ),
        (
            "sizeless",
            |s| {
                greet(&s)?;
                loop {
                    let asked = option(&s)?;
                    answer(
                        &s,
                        asked,
                        if asked[3] == 7 { 1 } else { (1 << 31) + 1 },
                        &[],
                    )?;
                }
            },
            "no size was told",
        ),
    ];
    for (name, serve, expected) in cases {
        let uri = liar(&bench, name, serve);
        let error = bench.open(&uri, Format::Raw, 1).err().unwrap();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn in_replies() {
    let bench = Bench::new();
    let chunk = |kind: u16, len: u32, payload: &[u8]| {
        // The cookie of the first request is 1.
        let start = [
            &0x668e_33ef_u32.to_be_bytes()[..],
            &[0, 1],
            &kind.to_be_bytes(),
        ]
        .concat();
        [&start[..], &1u64.to_be_bytes(), &len.to_be_bytes(), payload].concat()
    };
    let at = |offset: u64, rest: &[u8]| [&offset.to_be_bytes()[..], rest].concat();
    let simple = |cookie: u64, error: u32| {
        let magic = 0x6744_6698_u32.to_be_bytes();
        [&magic[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
    };
    for (name, structured, reply) in [
        ("magic", true, vec![7; 64]),
        ("structured though not agreed on", false, chunk(0, 0, &[])),
        ("another cookie", false, simple(99, 0)),
        ("simple reply to a read", true, simple(1, 0)),
        ("nothing at all", true, chunk(0, 0, &[])),
        ("a part", true, chunk(1, 8 + 512, &at(0, &[1; 512]))),
        (
            "beyond the request",
            true,
            chunk(1, 8 + 512, &at(4096, &[1; 512])),
        ),
        (
            "before the export",
            true,
            chunk(1, 8 + 512, &at(u64::MAX, &[1; 512])),
        ),
        ("a hole without end", true, chunk(2, 12, &at(0, &[0xff; 4]))),
        (
            "a length without end",
            true,
            chunk(1, u32::MAX, &at(0, &[])),
        ),
        ("an error without a number", true, chunk(0x8001, 2, &[0, 5])),
        ("an unknown chunk", true, chunk(77, 0, &[])),
    ] {
        let (socket, bytes) = (name.replace(' ', "-"), reply.clone());
        let uri = liar(&bench, &socket, move |stream| {
            shake_hands(&stream, structured)?;
            get(&stream, 28)?;
            send(&stream, &[&bytes])?;
            get(&stream, 1).map(|_| ())
        });
        let error = match bench.open(&uri, Format::Raw, 0) {
            // The image's first bytes are looked at when it is opened.
            Err(error) => error,
            Ok(disk) => bench.read(&disk, 0, 4096).unwrap_err().to_string(),
        };
        assert!(
            error.contains("no connection to the server"),
            "{name}: {error}"
        );
    }
}
