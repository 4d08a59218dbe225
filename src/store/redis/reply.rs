//! Reads what Redis answered. Whatever has another form than the script promises is `Corrupt`.

use std::{collections::BTreeMap, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use redis::Value;

use crate::store::{Attachment, ClientMessage, Holder, Owner, PendingRequest, StoreError, StoreResult};

/// Codes that scripts answer instead of a result.
pub(super) mod code {
    /// No such session.
    pub(in crate::store::redis) const NOT_FOUND: i64 = 0;
    /// The fence does not hold.
    pub(in crate::store::redis) const FENCED: i64 = -1;
    /// A cap is reached.
    pub(in crate::store::redis) const TOO_MANY: i64 = -2;
    /// Another service.
    pub(in crate::store::redis) const STRANGER: i64 = -10;
    pub(in crate::store::redis) const WRONG_SERVICE: i64 = -3;
    /// An append with a number below the last one's.
    pub(in crate::store::redis) const OLD_OP: i64 = -4;
    /// A cap in bytes is reached.
    pub(in crate::store::redis) const TOO_MANY_BYTES: i64 = -5;
    /// Another request has this id.
    pub(in crate::store::redis) const ID_IN_USE: i64 = -6;
    /// The owner that was to be replaced has a living lease.
    pub(in crate::store::redis) const OWNER_LIVES: i64 = -7;
    /// The data are older than what the owner has seen.
    pub(in crate::store::redis) const OLDER: i64 = -8;
    /// Another protocol version was agreed on.
    pub(in crate::store::redis) const OTHER_VERSION: i64 = -9;
    /// The client of this POST was told an error.
    pub(in crate::store::redis) const DISOWNED: i64 = -11;
}

/// An answer that makes no sense. `what` names the operation, never a value (SEC-2).
pub fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("unexpected answer to {what}"))
}

/// The values of one array, taken one by one.
pub struct Fields {
    values: std::vec::IntoIter<Value>,
    what: &'static str,
}

impl Fields {
    /// Of these. `what`: the operation whose answer they are.
    pub fn new(values: Vec<Value>, what: &'static str) -> Self {
        Self { values: values.into_iter(), what }
    }

    /// Of an array.
    pub fn of(value: Value, what: &'static str) -> StoreResult<Self> {
        match value {
            Value::Array(values) => Ok(Self::new(values, what)),
            _ => Err(corrupt(what)),
        }
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.values.len() == 0
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// The next one, whatever it is.
    pub fn value(&mut self) -> StoreResult<Value> {
        self.values.next().ok_or_else(|| corrupt(self.what))
    }

    /// The next one, an array.
    pub fn fields(&mut self) -> StoreResult<Self> {
        Self::of(self.value()?, self.what)
    }

    /// The next one, a number or the digits of one.
    pub fn number<T: FromStr + TryFrom<i64>>(&mut self) -> StoreResult<T> {
        number(self.value()?, self.what)
    }

    /// The next one, UTF-8.
    pub fn text(&mut self) -> StoreResult<String> {
        text(self.value()?, self.what)
    }

    /// The same, for many.
    pub fn shared(&mut self) -> StoreResult<Arc<str>> {
        Ok(self.text()?.into())
    }

    /// The next one, any bytes.
    pub fn bytes(&mut self) -> StoreResult<Bytes> {
        match self.value()? {
            Value::BulkString(bytes) => Ok(bytes.into()),
            _ => Err(corrupt(self.what)),
        }
    }

    /// Instance id and incarnation.
    pub fn owner(&mut self) -> StoreResult<Owner> {
        Ok(Owner { instance_id: self.shared()?, incarnation: self.shared()? })
    }

    /// All that is left: field, value, field, value.
    pub fn pairs(mut self) -> StoreResult<Vec<(String, String)>> {
        let mut pairs = Vec::with_capacity(self.len() / 2);
        while !self.is_empty() {
            let field = self.text()?;
            pairs.push((field, self.text()?));
        }
        Ok(pairs)
    }

    /// The same, to be looked up.
    pub fn map(self) -> StoreResult<BTreeMap<String, String>> {
        Ok(self.pairs()?.into_iter().collect())
    }

    /// All that is left, as texts.
    pub fn texts(mut self) -> StoreResult<Vec<String>> {
        let mut texts = Vec::with_capacity(self.len());
        while !self.is_empty() {
            texts.push(self.text()?);
        }
        Ok(texts)
    }
}

/// A number, or the digits of one.
pub fn number<T: FromStr + TryFrom<i64>>(value: Value, what: &'static str) -> StoreResult<T> {
    match value {
        Value::Int(number) => T::try_from(number).map_err(|_| corrupt(what)),
        Value::BulkString(digits) => parse(&digits, what),
        _ => Err(corrupt(what)),
    }
}

/// The answer to `TIME`.
pub fn time(value: Value) -> StoreResult<Duration> {
    let Value::Array(parts) = value else { return Err(corrupt("time")) };
    let [seconds, micros]: [Value; 2] = parts.try_into().map_err(|_| corrupt("time"))?;
    let (seconds, micros) = (number(seconds, "time")?, number(micros, "time")?);
    // Whatever stands there: no sum that is none.
    Duration::from_secs(seconds).checked_add(Duration::from_micros(micros)).ok_or_else(|| corrupt("time"))
}

/// UTF-8.
pub fn text(value: Value, what: &'static str) -> StoreResult<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| corrupt(what)),
        Value::SimpleString(text) => Ok(text),
        _ => Err(corrupt(what)),
    }
}

fn parse<T: FromStr>(digits: &[u8], what: &'static str) -> StoreResult<T> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or_else(|| corrupt(what))
}

/// Kind letter and id key of an inbox entry, as the scripts write them.
pub fn client_message(kind: &str, id_key: String, what: &'static str) -> StoreResult<ClientMessage> {
    match kind {
        "q" => Ok(ClientMessage::Request { id_key: id_key.into() }),
        "n" if id_key.is_empty() => Ok(ClientMessage::Notification),
        "n" => Ok(ClientMessage::Cancel { id_key: id_key.into() }),
        "r" => Ok(ClientMessage::Response),
        _ => Err(corrupt(what)),
    }
}

/// The request table: id key, `<seq> <forwarded> <body>`, ...; sorted by seq.
pub fn pending(mut table: Fields) -> StoreResult<Vec<PendingRequest>> {
    let what = table.what;
    let mut requests = Vec::with_capacity(table.len() / 2);
    while !table.is_empty() {
        let id_key = table.text()?;
        let state = table.bytes()?;
        // What keeps the table alive when it holds no request, see accept.lua.
        if id_key.is_empty() {
            continue;
        }
        let digits = state.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let [b' ', flag @ (b'0' | b'1'), b' ', ..] = state[digits..] else { return Err(corrupt(what)) };
        let seq = parse(&state[..digits], what)?;
        requests.push(PendingRequest {
            seq,
            id_key: id_key.into(),
            forwarded: flag == b'1',
            body: state.slice(digits + 3..),
        });
    }
    requests.sort_unstable_by_key(|request| request.seq);
    Ok(requests)
}

/// The value of a field `a:<stream>`: `<incarnation> <attachment id>`.
pub fn attachment(stream: &str, holder: &str, what: &'static str) -> StoreResult<Attachment> {
    let Holder { incarnation, id } = Holder::read(holder).ok_or_else(|| corrupt(what))?;
    Ok(Attachment { stream: stream.to_owned(), incarnation, id })
}

/// The value of a line of `INFO`.
pub fn told<'a>(server: &'a str, name: &str) -> Option<&'a str> {
    server.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
