//! The questions of the server to the client (sampling, elicitation, roots, ping), and the router's own requests to the
//! server: which are open, and under which ids on either side.
//!
//! A server begins to count anew with every upstream session, so its ids are not unique over the life of the client's
//! session: a late answer to the dead session's `ask-4` would be taken for one to the new one's. The router's ids are: a
//! random number for each life of the actor (owner, adopter, restored data), and a counter. They are strings, which every
//! SDK echoes exactly. Only the bytes of the id are replaced; `progressToken` is another matter and stays.
//!
//! The answer to a question of a former owner may come when nothing but the question's own id tells what it is about: its
//! journaling takes it off the record. So where an upstream session outlives its owner (Streamable HTTP) the id also holds which
//! session has asked, and under which id.
//!
//! Owns the table, and its bound: what a client never answers must not grow (MEM-2). The actor passes on what it says.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use crate::protocol::jsonrpc::IdKey;

/// The questions that the client has not answered, and the ids of our own requests to the server.
#[derive(Debug)]
pub struct Questions {
    open: HashMap<IdKey, Question, RandomState>,
    /// Distinguishes the ids of this actor from those of every other one.
    nonce: u64,
    asked: u64,
    /// Our own requests on the present link which the server has not answered. Told by what was sent, not by how they look:
    /// a client may be a router, too, and its ids look like ours.
    own: Vec<IdKey>,
    own_sent: u64,
    /// Mark of the present upstream session, if it is one that outlives its owner.
    session: Option<u64>,
}

/// The longest id of a server's (JSON text) that stands in ours: those of SDKs are numbers or UUIDs.
const MAX_HELD_ID: usize = 64;

#[derive(Debug, PartialEq, Eq)]
struct Question {
    /// `None` when an older build passed it on unchanged.
    upstream_id: Option<IdKey>,
    /// The link it came by; `None` for a former owner's.
    link: Option<u64>,
}

/// What a client's answer is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered {
    /// A question of the present upstream session, under this id there (`None`: the same).
    Live(Option<IdKey>),
    /// One of an upstream session that is gone.
    Dead,
    /// None that is open.
    Nothing,
}

impl Questions {
    /// None, under ids that no other actor's have.
    pub fn fresh() -> Self {
        Self {
            open: HashMap::default(),
            nonce: fastrand::u64(..),
            asked: 0,
            own: Vec::new(),
            own_sent: 0,
            session: None,
        }
    }

    /// How many the client has not answered.
    pub fn unanswered(&self) -> usize {
        self.open.len()
    }

    /// Gives back what a burst has left.
    pub fn shrink(&mut self) {
        self.open.shrink_to_fit();
        self.own.shrink_to_fit();
    }

    /// As an adopter finds it: the id towards the client, and what stands with it. Older builds wrote the method or nothing.
    pub fn inherit(&mut self, id: &str, stored: &str) {
        let question = Question { upstream_id: IdKey::of_json(stored), link: None };
        self.open.insert(IdKey::from_stored(id), question);
    }

    /// As [`Continuation::questions`](crate::store::Continuation::questions).
    pub fn stored(&self) -> BTreeMap<String, String> {
        let stored = self.open.iter().map(|(id, question)| {
            let upstream_id = question.upstream_id.as_ref().map_or("", IdKey::as_json);
            (id.as_json().to_owned(), upstream_id.to_owned())
        });
        stored.collect()
    }

    /// Messages go to this upstream session from now on, as it stands on record. `None`: it ends with its connection.
    pub fn are_of(&mut self, session: Option<&str>) {
        self.session = session.map(fnv);
    }

    /// A question under this id of the server, which came by `link`, has no answer yet.
    pub fn is_asked(&self, upstream_id: &IdKey, link: u64) -> bool {
        let is_it =
            |question: &Question| question.link == Some(link) && question.upstream_id.as_ref() == Some(upstream_id);
        self.open.values().any(is_it)
    }

    /// The id towards the client of a question that came by `link`.
    ///
    /// # Errors
    /// Its id at the server: `most` are open already.
    pub fn ask(&mut self, upstream_id: IdKey, link: u64, most: usize) -> Result<IdKey, IdKey> {
        if self.open.len() >= most {
            return Err(upstream_id);
        }
        self.asked += 1;
        let held = upstream_id.as_json();
        let held = match self.session.filter(|_| held.len() <= MAX_HELD_ID) {
            Some(session) => format!("-{session:016x}-{}", hex(held)),
            None => String::new(),
        };
        let id = IdKey::from_stored(format!("\"ask-{:016x}-{}{held}\"", self.nonce, self.asked));
        self.open.insert(id.clone(), Question { upstream_id: Some(upstream_id), link: Some(link) });
        Ok(id)
    }

    /// The client answers the question with this id, while this is the link to the server.
    pub fn answer(&mut self, id: &IdKey, link: u64) -> Answered {
        match self.open.remove(id) {
            Some(question) if question.link == Some(link) => Answered::Live(question.upstream_id),
            Some(_) => Answered::Dead,
            None => self.held_by(id).map_or(Answered::Nothing, |upstream_id| Answered::Live(Some(upstream_id))),
        }
    }

    /// What the id of a former owner's question holds, if it is one of the present upstream session.
    fn held_by(&self, id: &IdKey) -> Option<IdKey> {
        let words = id.key().strip_prefix("\"ask-")?.strip_suffix('"')?;
        let [nonce, _, session, held] = words.split('-').collect::<Vec<_>>()[..] else { return None };
        let is_former = u64::from_str_radix(nonce, 16).is_ok_and(|nonce| nonce != self.nonce);
        let is_present = self.session.is_some_and(|present| u64::from_str_radix(session, 16) == Ok(present));
        (is_former && is_present).then(|| IdKey::of_json(&unhex(held)?)).flatten()
    }

    /// The server takes a question back: its id towards the client.
    pub fn withdraw(&mut self, upstream_id: &IdKey, link: u64) -> Option<IdKey> {
        let is_it = |question: &Question| {
            question.link == Some(link) && question.upstream_id.as_ref().is_some_and(|id| id == upstream_id)
        };
        let id = self.open.iter().find(|(_, question)| is_it(question)).map(|(id, _)| id.clone())?;
        self.open.remove(&id);
        Some(id)
    }

    /// The id at the server of an open question.
    pub fn upstream_id(&self, id: &IdKey, link: u64) -> Option<&IdKey> {
        self.open.get(id).filter(|question| question.link == Some(link))?.upstream_id.as_ref()
    }

    /// The upstream session of a former owner goes on by this link.
    pub fn go_on(&mut self, link: u64) {
        self.open
            .values_mut()
            .filter(|question| question.link.is_none())
            .for_each(|question| question.link = Some(link));
    }

    /// Takes the questions of all links but this one.
    pub fn take_dead(&mut self, link: u64) -> Vec<IdKey> {
        self.open.extract_if(|_, question| question.link != Some(link)).map(|(id, _)| id).collect()
    }

    /// An id for a request of our own on the present link.
    pub fn own_id(&mut self) -> IdKey {
        self.own_sent += 1;
        let id = IdKey::from_stored(format!("\"mcp-router-{:016x}-{}\"", self.nonce, self.own_sent));
        self.own.push(id.clone());
        id
    }

    /// Whether this answers a request of our own; it is not open any more then.
    pub fn answers_own(&mut self, id: &IdKey) -> bool {
        let at = self.own.iter().position(|own| own == id);
        at.map(|at| self.own.swap_remove(at)).is_some()
    }

    /// The link is gone, and with it the answers to our own requests.
    pub fn forget_own(&mut self) {
        self.own.clear();
    }
}

/// FNV-1a: the same in every build.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<String> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    let bytes = (0..text.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 8;

    fn id(text: &str) -> IdKey {
        IdKey::of_json(text).unwrap()
    }

    #[test]
    fn an_answer_reaches_the_question_of_its_own_link_only() {
        let mut questions = Questions::fresh();
        let first = questions.ask(id("4"), 1, MOST).unwrap();
        let second = questions.ask(id("4"), 3, MOST).unwrap();
        assert_ne!(first, second);
        assert_eq!(questions.answer(&first, 3), Answered::Dead);
        assert_eq!(questions.answer(&second, 3), Answered::Live(Some(id("4"))));
        assert_eq!(questions.answer(&second, 3), Answered::Nothing);
        assert_eq!(questions.answer(&id("4"), 3), Answered::Nothing);
    }

    #[test]
    fn ids_of_two_owners_differ() {
        let (mut one, mut other) = (Questions::fresh(), Questions::fresh());
        assert_ne!(one.ask(id("1"), 1, MOST), other.ask(id("1"), 1, MOST));
        assert_ne!(one.own_id(), other.own_id());
    }

    #[test]
    fn a_question_is_withdrawn_by_the_value_of_its_id_and_on_its_link() {
        let mut questions = Questions::fresh();
        let asked = questions.ask(id(r#""\u00e9""#), 1, MOST).unwrap();
        assert_eq!(questions.withdraw(&id(r#""é""#), 2), None);
        assert_eq!(questions.withdraw(&id(r#""é""#), 1), Some(asked.clone()));
        assert_eq!(questions.answer(&asked, 1), Answered::Nothing);
    }

    #[test]
    fn an_adopter_keeps_what_older_builds_wrote() {
        for (stored, upstream_id) in [("", None), ("sampling/createMessage", None), ("\"a\"", Some(id("\"a\"")))] {
            let mut questions = Questions::fresh();
            questions.inherit("\"ask-1\"", stored);
            let kept: Vec<_> = questions.stored().into_iter().collect();
            let value = upstream_id.as_ref().map_or("", IdKey::as_json);
            assert_eq!(kept, [("\"ask-1\"".to_owned(), value.to_owned())]);
            assert_eq!(questions.take_dead(1), [id("\"ask-1\"")], "its upstream session is gone");
        }
    }

    /// OWN-5: of the upstream session that goes on, and of no other.
    #[test]
    fn the_id_of_a_question_tells_an_heir_what_its_answer_is_about() {
        for upstream_id in ["7", "\"a-b\\u00e9\"", "-1.5"] {
            let mut owner = Questions::fresh();
            owner.are_of(Some("2025-11-25 abc"));
            let asked = owner.ask(id(upstream_id), 1, MOST).unwrap();
            assert_eq!(owner.answer(&asked, 1), Answered::Live(Some(id(upstream_id))));
            assert_eq!(owner.answer(&asked, 1), Answered::Nothing, "once");
            let mut heir = Questions::fresh();
            assert_eq!(heir.answer(&asked, 1), Answered::Nothing);
            heir.are_of(Some("2025-11-25 other"));
            assert_eq!(heir.answer(&asked, 1), Answered::Nothing, "another session");
            heir.are_of(Some("2025-11-25 abc"));
            assert_eq!(heir.answer(&asked, 1), Answered::Live(Some(id(upstream_id))));
        }
        let mut heir = Questions::fresh();
        heir.are_of(Some("s"));
        for nonsense in ["ask-1-2", "ask-1-2-3", "ask-x-2-3-4", "ask-1-2-3-zz", "ask-1-2-3-7", "ask-", "ask-1-2-3-37-5"]
        {
            assert_eq!(heir.answer(&id(&format!("\"{nonsense}\"")), 1), Answered::Nothing, "{nonsense}");
        }
        let long = format!("\"{}\"", "x".repeat(MAX_HELD_ID));
        assert!(heir.ask(id(&long), 1, MOST).unwrap().as_json().len() < MAX_HELD_ID);
    }

    #[test]
    fn only_what_was_sent_is_our_own() {
        let mut questions = Questions::fresh();
        let own = questions.own_id();
        assert!(!questions.answers_own(&id("\"mcp-router-1-1\"")));
        assert!(questions.answers_own(&own));
        assert!(!questions.answers_own(&own), "once");
        let lost = questions.own_id();
        questions.forget_own();
        assert!(!questions.answers_own(&lost));
    }
    /// MEM-2
    #[test]
    fn no_more_than_the_bound_are_open_and_each_answer_makes_room() {
        let mut questions = Questions::fresh();
        let first = questions.ask(id("1"), 1, 2).unwrap();
        questions.ask(id("2"), 1, 2).unwrap();
        assert_eq!(questions.ask(id("3"), 1, 2), Err(id("3")));
        assert_eq!(questions.withdraw(&id("3"), 1), None, "it is not open");
        assert_eq!(questions.answer(&first, 1), Answered::Live(Some(id("1"))));
        assert!(questions.ask(id("3"), 1, 2).is_ok());
        assert_eq!(questions.unanswered(), 2);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Ask(u8),
        /// The client answers one of those that it was asked, open or not.
        Answer(prop::sample::Index),
        Withdraw(u8),
        NewLink,
        TakeDead,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6_u8).prop_map(Step::Ask),
            3 => any::<prop::sample::Index>().prop_map(Step::Answer),
            1 => (0..6_u8).prop_map(Step::Withdraw),
            1 => Just(Step::NewLink),
            1 => Just(Step::TakeDead),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the server asks and takes back, over any number of links: an answer reaches the question that it is about,
        /// once, on its own link, and no more than the bound are open.
        #[test]
        fn an_answer_reaches_its_question_once(steps in prop::collection::vec(step(), 0..80)) {
            let mut questions = Questions::fresh();
            let mut link = 1;
            // Id towards the client, id at the server, link, open.
            let mut asked: Vec<(IdKey, IdKey, u64, bool)> = Vec::new();
            for step in steps {
                match step {
                    Step::Ask(number) => {
                        let open = asked.iter().filter(|(.., open)| *open).count();
                        let upstream_id = id(&number.to_string());
                        match questions.ask(upstream_id.clone(), link, MOST) {
                            Ok(own) => {
                                prop_assert!(open < MOST && asked.iter().all(|(other, ..)| *other != own));
                                asked.push((own, upstream_id, link, true));
                            }
                            Err(refused) => prop_assert!(open == MOST && refused == upstream_id),
                        }
                    }
                    Step::Answer(_) if asked.is_empty() => {}
                    Step::Answer(which) => {
                        let at = which.index(asked.len());
                        let (own, upstream_id, of, open) = &mut asked[at];
                        let expected = match (*open, *of == link) {
                            (false, _) => Answered::Nothing,
                            (true, false) => Answered::Dead,
                            (true, true) => Answered::Live(Some(upstream_id.clone())),
                        };
                        *open = false;
                        prop_assert_eq!(questions.answer(own, link), expected);
                    }
                    Step::Withdraw(number) => {
                        let upstream_id = id(&number.to_string());
                        let is_it = |(_, other, of, open): &(IdKey, IdKey, u64, bool)| {
                            *open && *of == link && *other == upstream_id
                        };
                        match questions.withdraw(&upstream_id, link) {
                            Some(own) => {
                                let place = asked.iter().position(|question| is_it(question) && question.0 == own);
                                prop_assert!(place.is_some());
                                asked[place.unwrap()].3 = false;
                            }
                            None => prop_assert!(!asked.iter().any(is_it)),
                        }
                    }
                    Step::NewLink => link += 1,
                    Step::TakeDead => {
                        let mut dead: Vec<_> = questions.take_dead(link).iter().map(|id| id.key().to_owned()).collect();
                        let is_dead = |of: u64, open: bool| open && of != link;
                        let mut expected: Vec<_> = asked
                            .iter()
                            .filter(|(_, _, of, open)| is_dead(*of, *open))
                            .map(|(own, ..)| own.key().to_owned())
                            .collect();
                        dead.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(dead, expected);
                        asked.iter_mut().filter(|(_, _, of, open)| is_dead(*of, *open)).for_each(|(.., open)| *open = false);
                    }
                }
                prop_assert_eq!(questions.unanswered(), asked.iter().filter(|(.., open)| *open).count());
            }
        }
    }
}
