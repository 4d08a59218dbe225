//! The head of a session is read the same in whichever order its fields come, and again as it was written.

use std::collections::BTreeMap;

use mcp_router::store::SessionHead;

/// Bytes: the fields of the hash, `name=value` in lines.
pub fn session_head(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let fields: BTreeMap<String, String> = text
        .split('\n')
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let (head, is_sound) = SessionHead::read(fields.clone());
    assert_eq!(SessionHead::read(fields.into_iter().rev()), (head.clone(), is_sound), "in another order");
    assert!(!is_sound || head.ownership.is_some());
    let (again, is_sound_again) = SessionHead::read(head.fields());
    assert_eq!(again, head, "as it was written");
    assert_eq!(is_sound_again, head.ownership.is_some(), "what is written makes sense");
    for attachment in head.attachments() {
        let holder = head.holder(&attachment.stream).expect("it has one");
        assert_eq!((&holder.incarnation, holder.id), (&attachment.incarnation, attachment.id));
    }
}
