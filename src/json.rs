//! What others have written in JSON.
//!
//! serde reads a struct from an array of its fields' values too, and takes what is no answer of that kind for one.
//!
//! Invariant: an [`Object`] was written as one (RFC 8259 section 4).

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A struct that is read from an object and from nothing else.
#[derive(Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(default)]
        code: String,
        inner: Option<Object<Inner>>,
    }

    #[derive(serde::Deserialize)]
    struct Inner {
        id: u8,
    }

    #[test]
    fn an_object_and_nothing_else() {
        let read = |text| serde_json::from_str::<Object<Answer>>(text);
        let Object(answer) = read(r#" {"other":[1],"code":"a","inner":{"id":7}}"#).unwrap();
        assert_eq!((answer.code.as_str(), answer.inner.map(|Object(it)| it.id)), ("a", Some(7)));
        assert!(read("{}").is_ok_and(|Object(answer)| answer.code.is_empty()));
        for other in
            ["[]", r#"["a",null]"#, r#"["a",{"id":7}]"#, r#"{"inner":[7]}"#, "null", "\"a\"", "7"]
        {
            assert!(read(other).is_err(), "{other}");
        }
        assert!(serde_json::from_str::<Answer>(r#"["a",null]"#).is_ok(), "serde would take it");
    }
}
