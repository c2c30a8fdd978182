//! Makes the seeds in `corpus/`, with qemu-img and qemu-io for the images: see README.md.

use std::{fs, path::Path, process::Command};

/// An image: its name, format and options of qemu-img, and what qemu-io and qemu-img do to it then.
struct Seed {
    name: &'static str,
    format: &'static str,
    options: &'static str,
    size: &'static str,
    io: &'static [&'static str],
    then: &'static [&'static str],
}

const WRITES: &[&str] = &[
    "write -P 1 0 5k",
    "write -P 2 40k 1k",
    "write -z 20k 4k",
    "discard 4k 2k",
];

const IMAGES: [Seed; 14] = [
    qcow2("v3", "cluster_size=512", WRITES, &[]),
    qcow2("v2", "compat=0.10,cluster_size=512", WRITES, &[]),
    qcow2("4k", "cluster_size=4k", WRITES, &[]),
    qcow2("refcount1", "cluster_size=512,refcount_bits=1", WRITES, &[]),
    qcow2(
        "refcount64",
        "cluster_size=512,refcount_bits=64",
        WRITES,
        &[],
    ),
    qcow2(
        "lazy",
        "cluster_size=512,lazy_refcounts=on",
        &["write -P 1 0 5k", "abort"],
        &[],
    ),
    qcow2(
        "extended-l2",
        "cluster_size=16k,extended_l2=on",
        &["write -P 1 1k 3k"],
        &[],
    ),
    qcow2(
        "zstd",
        "cluster_size=512,compression_type=zstd",
        &["write -c -P 3 0 512"],
        &[],
    ),
    qcow2(
        "deflate",
        "cluster_size=512",
        &["write -c -P 3 0 512", "write -c -P 4 8k 512"],
        &[],
    ),
    qcow2(
        "snapshots",
        "cluster_size=512",
        WRITES,
        &["snapshot -c one IMAGE", "snapshot -c two IMAGE"],
    ),
    qcow2(
        "bitmaps",
        "cluster_size=512",
        WRITES,
        &["bitmap --add -g 512 IMAGE dirty"],
    ),
    qcow2("data-file", "data_file=data,cluster_size=512", WRITES, &[]),
    qcow2(
        "raw-data-file",
        "data_file=raw-data,data_file_raw=on,cluster_size=512",
        WRITES,
        &[],
    ),
    Seed {
        name: "qed",
        format: "qed",
        options: "cluster_size=4k,table_size=2",
        size: "64k",
        io: WRITES,
        then: &[],
    },
];

/// Operations on each image.
const STEPS: usize = 20;

const fn qcow2(
    name: &'static str,
    options: &'static str,
    io: &'static [&'static str],
    then: &'static [&'static str],
) -> Seed {
    Seed {
        name,
        format: "qcow2",
        options,
        size: "64k",
        io,
        then,
    }
}

/// Headers that the images do not have: `qemu-img create` with these options.
const HEADERS: [(&str, &str, &str); 4] = [
    (
        "backing",
        "qcow2",
        "backing_file=a/b.raw,backing_fmt=raw,cluster_size=512",
    ),
    (
        "data-file",
        "qcow2",
        "data_file=header-data,data_file_raw=on,cluster_size=512",
    ),
    (
        "luks",
        "qcow2",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
    ),
    (
        "qed-backing",
        "qed",
        "backing_file=a/b.raw,backing_fmt=raw,cluster_size=4k",
    ),
];

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let directory = tempfile::tempdir().expect("a directory can be made");
    // Images name their data files relative to it.
    std::env::set_current_dir(&directory).expect("it can be used");
    let mut random = 2u64;
    for seed in IMAGES {
        let bytes = image(&seed);
        // The start is a header; some more of it than needed does no harm.
        put(
            &corpus,
            "headers",
            seed.name,
            &bytes[..bytes.len().min(1024)],
        );
        put(&corpus, "images", seed.name, &bytes);
        let steps: Vec<u8> = (0..STEPS * 4)
            .map(|_| strata_exec::random::next(&mut random) as u8)
            .collect();
        let input = [&[STEPS as u8 - 1][..], &steps, &bytes].concat();
        put(&corpus, "operations", seed.name, &input);
    }
    for (name, format, options) in HEADERS {
        let secret = ["--object", "secret,id=s,data=x"];
        let args = ["create", "-q", "-u", "-f", format, "-o", options];
        let file = format!("header-{name}");
        tool(
            "qemu-img",
            &[&args[..2], &secret, &args[2..], &[&file, "64k"]].concat(),
        );
        let bytes = fs::read(file).expect("an image");
        put(&corpus, "headers", name, &bytes[..bytes.len().min(1024)]);
    }
    structured(&corpus);
    server(&corpus);
    client(&corpus);
}

fn image(seed: &Seed) -> Vec<u8> {
    let path = seed.name;
    tool(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            seed.format,
            "-o",
            seed.options,
            path,
            seed.size,
        ],
    );
    for command in seed.io {
        // `abort` ends qemu-io as a crash does.
        let args = ["-d", "unmap", "-f", seed.format, "-c", command, path];
        let status = Command::new("qemu-io").args(args).status();
        let succeeded = status.expect("qemu-io runs").success();
        assert!(succeeded || *command == "abort", "{command}");
    }
    for command in seed.then {
        let args: Vec<_> = command
            .replace("IMAGE", path)
            .split(' ')
            .map(str::to_owned)
            .collect();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        tool("qemu-img", &args);
    }
    fs::read(path).expect("an image")
}

fn tool(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status();
    assert!(
        status.expect("the tool runs").success(),
        "{program} {args:?}"
    );
}

fn put(corpus: &Path, target: &str, name: &str, bytes: &[u8]) {
    let directory = corpus.join(target);
    fs::create_dir_all(&directory).expect("a directory can be made");
    fs::write(directory.join(format!("{name}.seed")), bytes).expect("a seed can be written");
}

/// For inputs that are taken apart by `arbitrary`, any bytes will do.
fn structured(corpus: &Path) {
    let mut random = 1u64;
    for target in ["tables", "requests", "operations"] {
        for n in 0..12 {
            let bytes: Vec<u8> = (0..64 + n * 24)
                .map(|_| strata_exec::random::next(&mut random) as u8)
                .collect();
            put(corpus, target, &format!("random-{n:02}"), &bytes);
        }
    }
}

/// What clients say.
fn server(corpus: &Path) {
    const GO: u32 = 7;
    let name = |name: &str| [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat();
    let go = |export: &str| option(GO, &[name(export), vec![0, 1, 0, 3]].concat());
    let requests = |extended: bool| {
        let mut out = Vec::new();
        let all = [
            (0, 0, 4096),
            (1, 4096, 512),
            (3, 0, 0),
            (4, 0, 8192),
            (5, 0, 4096),
        ];
        let more = [
            (6, 8192, 4096),
            (7, 0, 196_608),
            (0, 0, 196_608),
            (0, 512, 512),
            (2, 0, 0),
        ];
        for (cookie, (kind, offset, len)) in all.into_iter().chain(more).enumerate() {
            out.extend(request(extended, kind, cookie as u64, offset, len));
        }
        out
    };
    let hello = vec![0, 0, 0, 3];
    let contexts = [name(""), vec![0, 0, 0, 1], name("base:allocation")].concat();
    let simple = [hello.clone(), go(""), requests(false)].concat();
    put(corpus, "nbd_server", "simple", &simple);
    let set = option(10, &contexts);
    let structured = [
        hello.clone(),
        option(8, &[]),
        set.clone(),
        go(""),
        requests(false),
    ]
    .concat();
    put(corpus, "nbd_server", "structured", &structured);
    let extended = [hello.clone(), option(11, &[]), set, go(""), requests(true)].concat();
    put(corpus, "nbd_server", "extended", &extended);
    let read_only = [hello.clone(), go("read-only"), requests(false)].concat();
    put(corpus, "nbd_server", "read-only", &read_only);
    let old = [vec![0, 0, 0, 1], option(1, b""), requests(false)].concat();
    put(corpus, "nbd_server", "export-name", &old);
    let asked = [
        hello,
        option(3, &[]),
        option(9, &contexts),
        option(6, &[name(""), vec![0, 0]].concat()),
    ];
    let asked = [
        asked.concat(),
        option(5, &[]),
        option(99, b"?"),
        option(2, &[]),
    ]
    .concat();
    put(corpus, "nbd_server", "options", &asked);
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = b"IHAVEOPT".to_vec();
    out.extend(number.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

fn request(extended: bool, kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    // A write's payload counts as such.
    let flags: u16 = if extended && kind == 1 { 1 << 5 } else { 0 };
    let mut out = magic.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    match extended {
        true => out.extend(u64::from(len).to_be_bytes()),
        false => out.extend(len.to_be_bytes()),
    }
    if kind == 1 {
        out.resize(out.len() + len as usize, 7);
    }
    out
}

/// What servers answer: the requests' cookies count from 1.
fn client(corpus: &Path) {
    let mut hello = b"NBDMAGICIHAVEOPT".to_vec();
    hello.extend([0, 3]);
    let reply = |option: u32, kind: u32, data: &[u8]| {
        let mut out = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
        for word in [option, kind, data.len() as u32] {
            out.extend(word.to_be_bytes());
        }
        out.extend(data);
        out
    };
    let (ack, unsup) = (1, 0x8000_0001);
    let mut export = vec![0, 0];
    export.extend(65536u64.to_be_bytes());
    // Flags: flush, FUA, trim, zeroes, multi-conn, fast zero.
    export.extend([0x09, 0x6d]);
    let go = [reply(7, 3, &export), reply(7, ack, &[])].concat();
    let simple_reply = |cookie: u64, error: u32| {
        let mut out = 0x6744_6698u32.to_be_bytes().to_vec();
        out.extend(error.to_be_bytes());
        out.extend(cookie.to_be_bytes());
        out
    };
    let mut simple = [hello.clone(), reply(8, unsup, &[]), go.clone()].concat();
    simple.extend(simple_reply(1, 0));
    simple.resize(simple.len() + 4096, 5);
    for cookie in 2..6 {
        simple.extend(simple_reply(cookie, 0));
    }
    simple.extend(simple_reply(6, 5));
    put(corpus, "nbd_client", "simple", &simple);
    let chunk = |flags: u16, kind: u16, cookie: u64, data: &[u8]| {
        let mut out = 0x668e_33efu32.to_be_bytes().to_vec();
        out.extend(flags.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(cookie.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        out
    };
    let context = [&[0, 0, 0, 1], &b"base:allocation"[..]].concat();
    let mut structured = [hello, reply(8, ack, &[]), reply(10, 4, &context)].concat();
    structured.extend([reply(10, ack, &[]), go].concat());
    // Status, a read of data and a hole, an error, done.
    structured.extend(chunk(1, 5, 1, &[0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3]));
    structured.extend(chunk(0, 1, 2, &[&[0; 8][..], &[9; 2048]].concat()));
    structured.extend(chunk(1, 2, 2, &[0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0]));
    structured.extend(chunk(1, 32769, 3, &[0, 0, 0, 5, 0, 2, b'n', b'o']));
    for cookie in 4..9 {
        structured.extend(chunk(1, 0, cookie, &[]));
    }
    put(corpus, "nbd_client", "structured", &structured);
}
