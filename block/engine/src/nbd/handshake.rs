//! The handshake: fixed newstyle negotiation up to the choice of an export.

use std::rc::Rc;

use strata_storage::nbd::wire::{
    proto::{
        Handshake, INIT_MAGIC, MAX_PAYLOAD, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionHeader,
        OptionReplyHeader, info, option, reply,
    },
    stream::{Gone, Reader, Stream, Violation},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    Export, Server,
    context::{Context, matches},
    option::{ContextRequest, InfoRequest, Malformed, export_name},
    reply::Style,
};

/// Bytes of an option's data that are looked at at most.
const MAX_OPTION: u32 = 64 << 10;

/// Bytes of an option's data at most, before the client is taken for a hostile one.
const MAX_SKIPPED: u32 = 32 << 20;

/// Preferred block size in bytes, as advertised.
const PREFERRED_BLOCK: u32 = 4096;

/// What client and server have agreed on.
pub(super) struct Terms {
    pub export: Rc<Export>,
    pub style: Style,
    pub contexts: Vec<Context>,
}

/// Negotiates with a client that has just connected. `None`: it left in good order.
///
/// # Errors
/// The connection ended, or has to.
pub(super) async fn negotiate(
    server: &Server,
    stream: &Stream,
    reader: &mut Reader,
) -> Result<Option<Terms>, Gone> {
    let offered = Handshake::FIXED_NEWSTYLE | Handshake::NO_ZEROES;
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(INIT_MAGIC.to_be_bytes());
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    let offered = u16::try_from(offered.bits()).expect("both sides' flags have these bits");
    greeting.extend(offered.to_be_bytes());
    stream.send(&[greeting]).await?;
    let mut answer = [0; 4];
    reader.fill(&mut answer).await?;
    let agreed = Handshake::from_bits(u32::from_be_bytes(answer))
        .ok_or(Violation("unknown handshake flags"))?;
    let mut negotiation = Negotiation::new(server, agreed);
    loop {
        let (option, data) = next_option(stream, reader).await?;
        let Some(data) = data else { continue };
        let fixed = agreed.contains(Handshake::FIXED_NEWSTYLE);
        if !fixed && option != option::EXPORT_NAME {
            return Err(Violation("an option of fixed newstyle, which was not agreed on").into());
        }
        let bare = server.tls().is_some() && !stream.is_encrypted();
        let mut answer = if bare {
            before_tls(option, &data)?
        } else {
            negotiation.answer(option, &data)?
        };
        stream.send(&answer.pieces).await?;
        match answer.then.take() {
            Then::GoOn => {}
            Then::Leave => return Ok(None),
            Then::StartTls => {
                start_tls(server, stream, reader).await?;
                // What was agreed on in the clear is void.
                negotiation = Negotiation::new(server, agreed);
            }
            Then::Enter(export) => return Ok(Some(negotiation.terms(export))),
        }
    }
}

/// What there is to say to a client that has to start TLS and has not ("TLS versions", "FORCEDTLS
/// mode").
fn before_tls(option: u32, data: &[u8]) -> Result<Answer, Violation> {
    let (kind, why, then) = match option {
        option::EXPORT_NAME => return Err(Violation("EXPORT_NAME without TLS, which is required")),
        option::STARTTLS if data.is_empty() => (reply::ACK, "", Then::StartTls),
        option::STARTTLS => (reply::ERR_INVALID, "the option takes no data", Then::GoOn),
        option::ABORT => (reply::ACK, "", Then::Leave),
        _ => (
            reply::ERR_TLS_REQD,
            "TLS has to be started first",
            Then::GoOn,
        ),
    };
    let pieces = vec![option_reply(option, kind, why.as_bytes())];
    Ok(Answer { pieces, then })
}

async fn start_tls(server: &Server, stream: &Stream, reader: &Reader) -> Result<(), Gone> {
    if !reader.is_empty() {
        // Whoever sent that could have been somebody in between.
        return Err(Violation("bytes in the clear after STARTTLS").into());
    }
    let tls = server.tls().ok_or(Violation("TLS is not available"))?;
    let connection = tls.connection().map_err(std::io::Error::other)?;
    stream.start_tls(connection).await
}

/// The next option and its data. No data: they were too long, and the client has been sent the
/// error.
async fn next_option(stream: &Stream, reader: &mut Reader) -> Result<(u32, Option<Vec<u8>>), Gone> {
    let mut header = [0; size_of::<OptionHeader>()];
    reader.fill(&mut header).await?;
    let bad = Violation("an option with a wrong magic number");
    let header = OptionHeader::read_from_bytes(&header).map_err(|_| bad)?;
    if header.magic != OPTION_MAGIC {
        return Err(bad.into());
    }
    let (option, len) = (header.option.get(), header.len.get());
    if len <= MAX_OPTION {
        let data = reader.take(len as usize).await?;
        return Ok((option, Some(data)));
    }
    if len > MAX_SKIPPED || option == option::EXPORT_NAME {
        return Err(Violation("an option that is too long").into());
    }
    reader.skip(u64::from(len)).await?;
    let piece = option_reply(option, reply::ERR_TOO_BIG, b"the option is too long");
    stream.send(&[piece]).await?;
    Ok((option, None))
}

struct Negotiation<'a> {
    server: &'a Server,
    agreed: Handshake,
    style: Style,
    /// The contexts that were selected, and for which export.
    contexts: Option<(Rc<Export>, Vec<Context>)>,
}

/// What an option leads to.
struct Answer {
    pieces: Vec<Vec<u8>>,
    then: Then,
}

#[derive(Default)]
enum Then {
    #[default]
    GoOn,
    Leave,
    StartTls,
    Enter(Rc<Export>),
}

impl Then {
    fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// An option that gets an error for an answer.
struct Refused {
    kind: u32,
    why: String,
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        refused(reply::ERR_INVALID, malformed.to_string())
    }
}

fn refused(kind: u32, why: impl Into<String>) -> Refused {
    let why = why.into();
    Refused { kind, why }
}

impl<'a> Negotiation<'a> {
    fn new(server: &'a Server, agreed: Handshake) -> Self {
        Self {
            server,
            agreed,
            style: Style::Simple,
            contexts: None,
        }
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Result<Answer, Violation> {
        let result = match option {
            option::EXPORT_NAME => return self.export_name(data),
            option::ABORT => {
                let pieces = vec![option_reply(option, reply::ACK, &[])];
                let then = Then::Leave;
                return Ok(Answer { pieces, then });
            }
            option::LIST => self.list(data).map(|pieces| (pieces, Then::GoOn)),
            option::INFO | option::GO => self.describe(option, data),
            option::STRUCTURED_REPLY => self.structured(data),
            option::EXTENDED_HEADERS => self.extended(data),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                let pieces = self.meta_contexts(option, data);
                pieces.map(|pieces| (pieces, Then::GoOn))
            }
            option::STARTTLS if self.server.tls().is_some() => {
                Err(refused(reply::ERR_INVALID, "TLS has been started"))
            }
            option::STARTTLS => Err(refused(reply::ERR_POLICY, "TLS is not configured")),
            _ => Err(refused(reply::ERR_UNSUP, "an unknown option")),
        };
        Ok(match result {
            Ok((mut pieces, then)) => {
                pieces.push(option_reply(option, reply::ACK, &[]));
                Answer { pieces, then }
            }
            Err(Refused { kind, why }) => Answer {
                pieces: vec![option_reply(option, kind, why.as_bytes())],
                then: Then::GoOn,
            },
        })
    }

    /// EXPORT_NAME knows no errors: the connection ends instead.
    fn export_name(&self, data: &[u8]) -> Result<Answer, Violation> {
        if self.style == Style::Extended {
            return Err(Violation("EXPORT_NAME after EXTENDED_HEADERS"));
        }
        let export = export_name(data)
            .ok()
            .and_then(|name| self.server.find(name))
            .ok_or(Violation("an export that does not exist"))?;
        let mut piece = self.size_and_flags(&export);
        if !self.agreed.contains(Handshake::NO_ZEROES) {
            piece.resize(piece.len() + 124, 0);
        }
        Ok(Answer {
            pieces: vec![piece],
            then: Then::Enter(export),
        })
    }

    fn list(&self, data: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
        no_data(data)?;
        let entry = |export: &Rc<Export>| {
            let len = u32::try_from(export.name.len()).expect("names of exports are short");
            let mut data = len.to_be_bytes().to_vec();
            data.extend(export.name.as_bytes());
            data.extend(export.description.iter().flat_map(|text| text.bytes()));
            option_reply(option::LIST, reply::SERVER, &data)
        };
        Ok(self.server.exports().iter().map(entry).collect())
    }

    /// INFO and GO.
    fn describe(&self, option: u32, data: &[u8]) -> Result<(Vec<Vec<u8>>, Then), Refused> {
        let request = InfoRequest::parse(data)?;
        let export = self.find(request.name)?;
        let mut items = vec![(info::EXPORT, self.size_and_flags(&export))];
        // Not the default sizes, so that they are sent in any case.
        items.push((info::BLOCK_SIZE, block_sizes(&export)));
        if request.wanted.contains(&info::NAME) {
            items.push((info::NAME, export.name.clone().into_bytes()));
        }
        let description = export.description.clone();
        if let Some(text) = description.filter(|_| request.wanted.contains(&info::DESCRIPTION)) {
            items.push((info::DESCRIPTION, text.into_bytes()));
        }
        let pieces = items.into_iter().map(|(kind, data)| {
            let data = [&kind.to_be_bytes(), data.as_slice()].concat();
            option_reply(option, reply::INFO, &data)
        });
        let then = match option {
            option::GO => Then::Enter(export),
            _ => Then::GoOn,
        };
        Ok((pieces.collect(), then))
    }

    fn structured(&mut self, data: &[u8]) -> Result<(Vec<Vec<u8>>, Then), Refused> {
        no_data(data)?;
        if self.style == Style::Extended {
            let why = "extended headers have been agreed on";
            return Err(refused(reply::ERR_EXT_HEADER_REQD, why));
        }
        self.style = Style::Structured;
        Ok((Vec::new(), Then::GoOn))
    }

    fn extended(&mut self, data: &[u8]) -> Result<(Vec<Vec<u8>>, Then), Refused> {
        no_data(data)?;
        self.style = Style::Extended;
        Ok((Vec::new(), Then::GoOn))
    }

    fn meta_contexts(&mut self, option: u32, data: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
        let set = option == option::SET_META_CONTEXT;
        if set {
            // What was selected before is gone also if this fails.
            self.contexts = None;
        }
        if self.style == Style::Simple {
            let why = "structured replies have to be agreed on first";
            return Err(refused(reply::ERR_INVALID, why));
        }
        let request = ContextRequest::parse(data)?;
        let export = self.find(request.name)?;
        let all = !set && request.queries.is_empty();
        let mut chosen = export.contexts();
        chosen.retain(|context| {
            let name = export.context_name(*context);
            let mut queries = request.queries.iter();
            all || queries.any(|query| matches(&name, query, !set))
        });
        let piece = |context: &Context| {
            let id = if set { context.id() } else { 0 };
            let data = [&id.to_be_bytes(), export.context_name(*context).as_bytes()].concat();
            option_reply(option, reply::META_CONTEXT, &data)
        };
        let pieces = chosen.iter().map(piece).collect();
        if set {
            self.contexts = Some((export, chosen));
        }
        Ok(pieces)
    }

    fn find(&self, name: &str) -> Result<Rc<Export>, Refused> {
        let unknown = || refused(reply::ERR_UNKNOWN, "no export of this name");
        self.server.find(name).ok_or_else(unknown)
    }

    fn size_and_flags(&self, export: &Export) -> Vec<u8> {
        let flags = export.flags(self.style != Style::Simple).bits();
        let size = export.disk.info().size;
        [size.to_be_bytes().as_slice(), &flags.to_be_bytes()].concat()
    }

    fn terms(self, export: Rc<Export>) -> Terms {
        let same = |(chosen, _): &(Rc<Export>, Vec<Context>)| Rc::ptr_eq(chosen, &export);
        let contexts = self.contexts.filter(same);
        Terms {
            style: self.style,
            contexts: contexts.map_or_else(Vec::new, |(_, contexts)| contexts),
            export,
        }
    }
}

/// Minimum, preferred and maximum ("Size constraints").
fn block_sizes(export: &Export) -> Vec<u8> {
    let minimum = export.disk.block_size();
    let sizes = [minimum, PREFERRED_BLOCK.max(minimum), MAX_PAYLOAD];
    sizes.iter().flat_map(|size| size.to_be_bytes()).collect()
}

fn no_data(data: &[u8]) -> Result<(), Refused> {
    if data.is_empty() {
        Ok(())
    } else {
        Err(refused(reply::ERR_INVALID, "the option takes no data"))
    }
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).expect("names and texts");
    let header = OptionReplyHeader {
        magic: OPTION_REPLY_MAGIC.into(),
        option: option.into(),
        kind: kind.into(),
        len: len.into(),
    };
    [header.as_bytes(), data].concat()
}
