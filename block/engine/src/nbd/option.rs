//! What a client says in its options: parsing of the data that follows an option's header.

use strata_storage::nbd::wire::proto::MAX_STRING;

/// The data of an option is not what the option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub &'static str);

/// Data of INFO and GO.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoRequest<'a> {
    /// The export; empty for the default one.
    pub name: &'a str,
    /// Information types that the client asks for.
    pub wanted: Vec<u16>,
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContextRequest<'a> {
    /// The export; empty for the default one.
    pub name: &'a str,
    /// What the client asks for, each with a namespace and a colon.
    pub queries: Vec<&'a str>,
}

impl<'a> InfoRequest<'a> {
    /// Parses `data`, all of it.
    pub fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.u16()?;
        let wanted = (0..count).map(|_| fields.u16()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { name, wanted })
    }
}

impl<'a> ContextRequest<'a> {
    /// Parses `data`, all of it.
    pub fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.u32()?;
        // A count that is too large runs into the end of the data.
        let queries = (0..count)
            .map(|_| fields.string())
            .collect::<Result<Vec<_>, _>>()?;
        fields.end()?;
        if queries.iter().any(|query| !query.contains(':')) {
            return Err(Malformed("a query without a namespace"));
        }
        Ok(Self { name, queries })
    }
}

/// An export's name as EXPORT_NAME carries it: all of the data.
pub(super) fn export_name(data: &[u8]) -> Result<&str, Malformed> {
    let text = std::str::from_utf8(data).map_err(|_| Malformed("a name that is not UTF-8"))?;
    if text.len() > MAX_STRING || text.contains('\0') {
        return Err(Malformed("a name that is too long or holds a NUL"));
    }
    Ok(text)
}

/// What has not been parsed yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Malformed("the data ends within a field"))?;
        self.0 = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A string after its length in 32 bits.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        export_name(self.take(len)?)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed("the data goes on after its last field"))
        }
    }
}

#[cfg(test)]
mod tests;
