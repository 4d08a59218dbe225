//! The tools of the directory: `getAllPersons`, `getPersonById`, and `addPerson`, the only one that writes.

use serde::Deserialize;
use serde_json::{Value, json};

use super::tool::{Call, CallResult, Effect, Outcome, definition, object};
use crate::{persons::NewPerson, resources, rpc::RpcError, session::LogLevel};

/// The definitions of this group.
pub(crate) fn definitions() -> Vec<Value> {
    let fields = json!({
        "firstName": { "type": "string", "minLength": 1, "maxLength": 100 },
        "lastName": { "type": "string", "minLength": 1, "maxLength": 100 },
        "age": { "type": "integer", "minimum": 0, "maximum": 150, "description": "Years." },
        "nationality": { "type": "string", "minLength": 1, "maxLength": 100 },
        "gender": { "type": "string", "minLength": 1, "maxLength": 100 },
    });
    let id = json!({ "type": "integer", "minimum": 1, "description": "The person's id." });
    let mut person_fields = fields.clone();
    person_fields["id"] = id.clone();
    let person = object(person_fields, &[]);
    vec![
        definition(
            "getAllPersons",
            "Get all persons",
            "Returns every person of the directory.",
            Effect::Reads,
            object(json!({}), &[]),
            Some(object(json!({ "persons": { "type": "array", "items": person } }), &[])),
        ),
        definition(
            "getPersonById",
            "Get a person",
            "Returns one person of the directory.",
            Effect::Reads,
            object(json!({ "id": id }), &[]),
            Some(person.clone()),
        ),
        definition(
            "addPerson",
            "Add a person",
            "Adds a person to the directory and returns it with its new id.",
            Effect::Adds,
            object(fields, &[]),
            Some(person),
        ),
    ]
}

/// Runs a tool of this group; `None` if `name` is not one.
pub(crate) fn call(name: &str, call: &Call<'_>) -> Option<Result<Outcome, RpcError>> {
    let result = match name {
        "getAllPersons" => Ok(CallResult::structured(json!({ "persons": call.state.persons.all() }))),
        "getPersonById" => get_by_id(call),
        "addPerson" => add(call),
        _ => return None,
    };
    Some(result.map(Outcome::from))
}

fn get_by_id(call: &Call<'_>) -> Result<CallResult, RpcError> {
    #[derive(Deserialize)]
    struct Arguments {
        id: u64,
    }
    let Arguments { id } = call.arguments.read()?;
    Ok(match call.state.persons.by_id(id) {
        Some(person) => CallResult::structured(json!(person)),
        None => CallResult::failed(format!("there is no person with id {id}")),
    })
}

fn add(call: &Call<'_>) -> Result<CallResult, RpcError> {
    let fields: NewPerson = call.arguments.read()?;
    fields.check().map_err(RpcError::invalid_params)?;
    match call.state.persons.add(fields) {
        Ok(person) => {
            resources::directory_changed(call.state);
            call.session.log(call.outlet, LogLevel::Info, "directory", format_args!("person {} added", person.id));
            Ok(CallResult::structured(json!(person)))
        }
        Err(full) => Ok(CallResult::failed(full.to_string())),
    }
}
