//! Reads what the session scripts answered, into the answers of the trait.

use redis::Value;

use super::reply::{self, Fields, code, corrupt};
use crate::{
    protocol::session_id::SessionId,
    store::{
        Accepted, Adopted, Appended, Attached, AttachedTo, Claimed, Fence, Fenceable, Handed, InboxEntry, LoggedEvent,
        Owner, Ownership, Page, Rehydration, SessionHead, ShownFrom, StoreResult, TRACE, head::Hot,
    },
};

pub(super) fn read_head(value: Value, what: &'static str) -> StoreResult<Option<SessionHead>> {
    let fields = Fields::of(value, what)?.pairs()?;
    Ok((!fields.is_empty()).then(|| SessionHead::read(fields).0))
}

pub(super) fn read_fenceable(value: Value, what: &'static str) -> StoreResult<Fenceable> {
    match value {
        Value::Int(1) => Ok(Fenceable::Done),
        Value::Int(code::NOT_FOUND) => Ok(Fenceable::NotFound),
        Value::Int(code::FENCED) => Ok(Fenceable::Fenced),
        _ => Err(corrupt(what)),
    }
}

/// `is_shown`: somebody shows the answer. With what stands in `hot`, if the script says so.
pub(super) fn read_accepted(value: Value, is_shown: bool) -> StoreResult<(Accepted, Option<Hot>)> {
    let mut fields = match value {
        Value::Int(code::NOT_FOUND) => return Ok((Accepted::NotFound, None)),
        Value::Int(code::FENCED) => return Ok((Accepted::Fenced, None)),
        Value::Int(code::OLDER) => return Ok((Accepted::Older, None)),
        Value::Int(code::TOO_MANY) => return Ok((Accepted::TooManyPending, None)),
        Value::Int(code::TOO_MANY_BYTES) => return Ok((Accepted::TooManyBytes, None)),
        Value::Int(code::STRANGER) => return Ok((Accepted::Stranger, None)),
        Value::Int(code::WRONG_SERVICE) => return Ok((Accepted::WrongService, None)),
        Value::Int(code::OTHER_VERSION) => return Ok((Accepted::OtherVersion, None)),
        Value::Int(code::DISOWNED) => return Ok((Accepted::Disowned, None)),
        Value::Int(code::ID_IN_USE) => return Ok((Accepted::IdInUse, None)),
        Value::Int(seq @ 1..) => return Ok((Accepted::Forward { seq: seq.unsigned_abs() }, None)),
        value => Fields::of(value, "accept")?,
    };
    let shown = |fields: &mut Fields| -> StoreResult<_> {
        let shown = ShownFrom { epoch: fields.number()?, last_event: fields.number()? };
        Ok(is_shown.then_some(shown))
    };
    let accepted = match fields.number::<u64>()? {
        4 => {
            let seq = fields.number()?;
            return Ok((Accepted::Forward { seq }, Hot::read(&fields.text()?)));
        }
        2 => Accepted::Queued {
            seq: fields.number()?,
            owner: fields.owner()?,
            generation: fields.number()?,
            listeners: fields.number()?,
            shown: shown(&mut fields)?,
        },
        3 => Accepted::Duplicate {
            seq: fields.number()?,
            claimed: fields.number::<u64>()? == 1,
            shown: shown(&mut fields)?,
        },
        _ => return Err(corrupt("accept")),
    };
    Ok((accepted, None))
}

pub(super) fn read_claimed(value: Value) -> StoreResult<Claimed> {
    const WHAT: &str = "claim";
    let mut fields = match value {
        Value::Int(code::NOT_FOUND) => return Ok(Claimed::NotFound),
        Value::Int(code::FENCED) => return Ok(Claimed::Fenced),
        Value::Int(code::OLDER) => return Ok(Claimed::Older),
        value => Fields::of(value, WHAT)?,
    };
    let mut handed = Handed { more: fields.number::<u64>()? == 1, ..Handed::default() };
    let mut holders = fields.fields()?;
    let mut attachments = Vec::with_capacity(holders.len() / 2);
    while !holders.is_empty() {
        let stream = holders.text()?;
        if let Some(id) = stream.strip_prefix(TRACE) {
            handed.traces.insert(id.to_owned(), holders.text()?);
            continue;
        }
        attachments.push(reply::attachment(&stream, &holders.text()?, WHAT)?);
    }
    (handed.after, handed.upto, handed.last) = (fields.number()?, fields.number()?, fields.number()?);
    handed.entries.reserve(fields.len() / 4);
    while !fields.is_empty() {
        let seq = fields.number()?;
        let kind = fields.text()?;
        let message = reply::client_message(&kind, fields.text()?, WHAT)?;
        let list = if seq > handed.upto { &mut handed.urgent } else { &mut handed.entries };
        list.push(InboxEntry { seq, message, body: fields.bytes()? });
    }
    Ok(Claimed::Entries { handed, attachments })
}

/// Entries of an inbox: sequence, kind, id key and body of each.
pub(super) fn read_entries(mut fields: Fields, what: &'static str) -> StoreResult<Vec<InboxEntry>> {
    let mut entries = Vec::with_capacity(fields.len() / 4);
    while !fields.is_empty() {
        let seq = fields.number()?;
        let kind = fields.text()?;
        let message = reply::client_message(&kind, fields.text()?, what)?;
        entries.push(InboxEntry { seq, message, body: fields.bytes()? });
    }
    Ok(entries)
}

pub(super) fn read_appended(value: Value) -> StoreResult<(Appended, Option<Hot>)> {
    let mut hot = None;
    let results = match value {
        Value::Int(code::NOT_FOUND) => return Ok((Appended::NotFound, None)),
        Value::Int(code::FENCED) => return Ok((Appended::Fenced, None)),
        Value::Int(code::OLDER) => return Ok((Appended::Older, None)),
        Value::Int(code::OLD_OP) => return Err(corrupt("an append with a number below the last one's")),
        Value::Array(values) => {
            let mut fields = Fields::new(values, "append");
            let results = fields.text()?;
            hot = Hot::read(&fields.text()?);
            results
        }
        value => reply::text(value, "append")?,
    };
    let (mut seqs, mut shown) = (Vec::new(), Vec::new());
    for text in results.split(' ') {
        if text == "-" {
            seqs.push(None);
            continue;
        }
        let (digits, is_shown) = text.strip_suffix('+').map_or((text, false), |digits| (digits, true));
        let seq = digits.parse().map_err(|_| corrupt("append"))?;
        seqs.push(Some(seq));
        if is_shown {
            shown.push(seq);
        }
    }
    Ok((Appended::Done { seqs, shown }, hot))
}

pub(super) fn read_page(value: Value) -> StoreResult<Option<Page>> {
    const WHAT: &str = "read_page";
    let mut fields = match value {
        Value::Int(code::NOT_FOUND) => return Ok(None),
        value => Fields::of(value, WHAT)?,
    };
    let epoch = fields.number()?;
    let last_seq = fields.number()?;
    let first_seq = fields.number()?;
    let gone = fields.number()?;
    let holder = match fields.value()? {
        Value::Nil => None,
        id => Some(reply::number(id, WHAT)?),
    };
    let mut events = Vec::with_capacity(fields.len() / 2);
    while !fields.is_empty() {
        let seq = fields.number()?;
        let body = match fields.value()? {
            Value::Nil => None,
            Value::BulkString(body) => Some(body.into()),
            _ => return Err(corrupt(WHAT)),
        };
        events.push(LoggedEvent { seq, body });
    }
    Ok(Some(Page { events, last_seq, first_seq, gone, epoch, holder }))
}

pub(super) fn read_attached(value: Value) -> StoreResult<Attached> {
    let mut fields = match value {
        Value::Int(code::NOT_FOUND) => return Ok(Attached::NotFound),
        value => Fields::of(value, "attach")?,
    };
    Ok(Attached::Attached(AttachedTo {
        owner: fields.owner()?,
        generation: fields.number()?,
        epoch: fields.number()?,
        service: fields.text()?,
        listeners: fields.number()?,
        attach_count: fields.number()?,
    }))
}

/// Also: the instance in whose index the session has no business.
pub(super) fn read_adopted(
    value: Value,
    session: SessionId,
    new_owner: &Owner,
) -> StoreResult<(Adopted, Option<String>)> {
    const WHAT: &str = "adopt";
    let new_index = || Some(new_owner.instance_id.to_string());
    let mut fields = match value {
        Value::Int(code::NOT_FOUND) => return Ok((Adopted::NotFound, new_index())),
        Value::Int(code::OWNER_LIVES) => return Ok((Adopted::OwnerLives, new_index())),
        value => Fields::of(value, WHAT)?,
    };
    if fields.number::<u64>()? == 2 {
        let owner = fields.owner()?;
        let not_in = new_index().filter(|id| **id != *owner.instance_id);
        return Ok((Adopted::Lost { owner, generation: fields.number()? }, not_in));
    }
    let former = fields.text()?;
    let (head, is_sound) = SessionHead::read(fields.fields()?.pairs()?);
    let inbox = read_entries(fields.fields()?, WHAT)?;
    let mut pending = reply::pending(fields.fields()?)?;
    for request in pending.iter_mut().filter(|request| !request.forwarded) {
        if let Ok(i) = inbox.binary_search_by_key(&request.seq, |entry| entry.seq) {
            request.body = inbox[i].body.clone();
        }
    }
    let Some(Ownership { generation, epoch, .. }) = head.ownership.as_ref().filter(|_| is_sound) else {
        return Err(corrupt(WHAT));
    };
    let fence = Fence { session, epoch: *epoch, generation: *generation, incarnation: new_owner.incarnation.clone() };
    let not_in = Some(former).filter(|former| **former != *new_owner.instance_id);
    let adopted = Rehydration { head, fence, inbox, pending };
    Ok((Adopted::Adopted(Box::new(adopted)), not_in))
}
