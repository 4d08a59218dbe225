//! The directory of made-up persons: generated the same at every start, shared by all sessions, kept in memory.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Persons at start.
const GENERATED: u32 = 120;

/// The directory's limit: what `addPerson` can make of it stays within some 20 MB, and within one answer.
const MAX_PERSONS: usize = 100_000;

/// The longest text of a field, characters.
const MAX_FIELD_CHARS: usize = 100;

const MAX_AGE: u32 = 150;

const FEMALE: [&str; 11] =
    ["Ada", "Beatriz", "Chiara", "Dagny", "Eleni", "Freya", "Grace", "Hana", "Ingrid", "Jasmin", "Kalpana"];
const MALE: [&str; 11] =
    ["Anton", "Bruno", "Carlos", "Dimitri", "Emil", "Farid", "Goran", "Hiroshi", "Ivan", "Jonas", "Kofi"];
const LAST: [&str; 13] = [
    "Almeida", "Bauer", "Costa", "Dubois", "Eriksen", "Fischer", "Garcia", "Haddad", "Ito", "Jansen", "Kowalski",
    "Larsen", "Moreau",
];
const NATIONALITIES: [&str; 7] = ["Brazilian", "Danish", "French", "German", "Ghanaian", "Indian", "Japanese"];

/// A person as it was added or generated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewPerson {
    pub first_name: String,
    pub last_name: String,
    /// Years.
    pub age: u32,
    pub nationality: String,
    pub gender: String,
}

impl NewPerson {
    /// What is wrong with the fields, if anything.
    pub fn check(&self) -> Result<(), String> {
        let fields = [
            ("firstName", &self.first_name),
            ("lastName", &self.last_name),
            ("nationality", &self.nationality),
            ("gender", &self.gender),
        ];
        for (name, text) in fields {
            if text.trim().is_empty() || text.chars().count() > MAX_FIELD_CHARS {
                return Err(format!("{name} must have 1 to {MAX_FIELD_CHARS} characters"));
            }
        }
        if self.age > MAX_AGE { Err(format!("age must be 0 to {MAX_AGE}")) } else { Ok(()) }
    }
}

/// A person of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Person {
    /// Counts from 1, without gaps.
    pub id: u64,
    #[serde(flatten)]
    pub fields: NewPerson,
}

/// The directory has no room for another person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the directory is full ({MAX_PERSONS} persons)")]
pub(crate) struct DirectoryFull;

/// The directory.
pub(crate) struct Persons(RwLock<Vec<Person>>);

impl Persons {
    /// The directory as it is at every start.
    pub fn generated() -> Self {
        Self(RwLock::new((0..GENERATED).map(generate).collect()))
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Person>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many persons there are.
    pub fn count(&self) -> usize {
        self.read().len()
    }

    /// Everybody, by id.
    pub fn all(&self) -> Vec<Person> {
        self.read().clone()
    }

    /// The person with this id.
    pub fn by_id(&self, id: u64) -> Option<Person> {
        let index = usize::try_from(id.checked_sub(1)?).ok()?;
        self.read().get(index).cloned()
    }

    /// Adds a person whose fields were checked; the person with its id.
    pub fn add(&self, fields: NewPerson) -> Result<Person, DirectoryFull> {
        let mut persons = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if persons.len() >= MAX_PERSONS {
            return Err(DirectoryFull);
        }
        let id = persons.last().map_or(1, |last| last.id + 1);
        let person = Person { id, fields };
        persons.push(person.clone());
        Ok(person)
    }

    /// Counts and the mean age.
    pub fn statistics(&self) -> Value {
        let persons = self.read();
        let mut by_gender: BTreeMap<&str, u64> = BTreeMap::new();
        let mut by_nationality: BTreeMap<&str, u64> = BTreeMap::new();
        let mut years = 0u64;
        for person in persons.iter() {
            *by_gender.entry(&person.fields.gender).or_default() += 1;
            *by_nationality.entry(&person.fields.nationality).or_default() += 1;
            years += u64::from(person.fields.age);
        }
        let count = u64::try_from(persons.len()).unwrap_or(u64::MAX);
        let mean_age = years.checked_div(count);
        json!({ "count": count, "meanAge": mean_age, "byGender": by_gender, "byNationality": by_nationality })
    }
}

/// The person at a position. The lists' lengths have no common factor, so neighbours differ in every field.
fn generate(position: u32) -> Person {
    let pick = |list: &[&str], step: usize| list[position as usize * step % list.len()].to_owned();
    let (first_names, gender) = if position.is_multiple_of(2) { (&FEMALE, "female") } else { (&MALE, "male") };
    Person {
        id: u64::from(position) + 1,
        fields: NewPerson {
            first_name: pick(first_names, 3),
            last_name: pick(&LAST, 5),
            age: 18 + position * 17 % 73,
            nationality: pick(&NATIONALITIES, 3),
            gender: gender.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_generated_directory_is_always_the_same_and_names_nobody_twice() {
        let persons = Persons::generated().all();
        assert_eq!(persons, Persons::generated().all());
        assert!(persons.len() > 100);
        let names: HashSet<_> = persons.iter().map(|p| (&p.fields.first_name, &p.fields.last_name)).collect();
        assert_eq!(names.len(), persons.len());
        assert!(persons.iter().all(|p| p.fields.check().is_ok()));
    }

    #[test]
    fn ids_count_from_one_without_gaps() {
        let persons = Persons::generated();
        let fields = persons.by_id(1).unwrap().fields;
        let added = persons.add(fields).unwrap();
        assert_eq!(added.id, u64::from(GENERATED) + 1);
        for id in 1..=added.id {
            assert_eq!(persons.by_id(id).unwrap().id, id);
        }
        assert_eq!(persons.by_id(0), None);
        assert_eq!(persons.by_id(added.id + 1), None);
    }
}
