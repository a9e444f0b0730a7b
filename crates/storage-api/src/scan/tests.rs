//! The scan against the decoder: what it takes for canonical is, and nothing else.

use crate::codec::MediaType;
use crate::normalizer::{JsonNormalizer, Normalized, Normalizer};
use crate::object::Encoded;
use crate::resource::{GroupVersionKind, SelectableField};
use crate::revision::Revision;
use crate::room::Room;

use crate::shape::{Seen, Shape, Shapes, TextKind};

use super::{AnyText, Anything, learn, scan};

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"a":"\u003cb\u003e \"q\" \\ \n\u0001é","b":""},"deletionTimestamp":null,"finalizers":[],"generation":7,"labels":{"app":"x","tier":"y"},"managedFields":[{"fieldsV1":{"f:a":{},"k:{\"type\":\"Ready\"}":{".":{},"\u003cé":1}}}],"name":"p","namespace":"ns","uid":"u-1"},"spec":{"containers":[{"args":["-v",[],{}],"cpu":0.5,"image":"i"},{"n":-1.25}],"deep":{"er":{"field":true}},"nodeName":"n1","priority":1000},"status":{"phase":null}}"#;

fn fields() -> Vec<SelectableField> {
    [
        "spec.nodeName",
        "spec.priority",
        "spec.deep.er.field",
        "status.phase",
        "type",
        "status.podIP",
    ]
    .map(SelectableField::new)
    .into()
}

/// Both ways of reading and of writing come to the same; `true` if the short one was taken.
#[track_caller]
fn same(document: &[u8], fields: &[SelectableField]) -> bool {
    let revision = Revision::new(12_345).unwrap();
    let normalizer = JsonNormalizer::new(GroupVersionKind::new("", "v1", "Pod"));
    let shown = String::from_utf8_lossy(document);
    let Some(short) = normalizer.verify(document, revision, fields) else {
        return false;
    };
    let long = normalizer.rewrite(document, revision, fields);
    let long = long.unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(short.json, long.json, "{shown}");
    assert_eq!(short.resource_version, long.resource_version, "{shown}");
    assert_eq!(short.attributes, long.attributes, "{shown}");
    assert_eq!(short.media_type, long.media_type);
    let object = Encoded::from_json(document.to_vec());
    let stored = normalizer.encode_value(&object, MediaType::Json).unwrap();
    assert_eq!(normalizer.keep(&object), Some(stored.clone()), "{shown}");
    let (both, read) = normalizer
        .encode_and_normalize(&object, MediaType::Json, revision, fields)
        .unwrap();
    assert_eq!((both, read.json), (stored, short.json), "{shown}");
    true
}

// covers: storage-api/VER-12, storage-api/VER-13
#[test]
fn canonical_documents_are_read_without_decoding_and_come_to_the_same() {
    let mut documents = vec![POD.to_owned(), format!("{POD}\n")];
    for metadata in [
        "{}",
        r#"{"name":"p"}"#,
        r#"{"uid":"u"}"#,
        r#"{"zone":1}"#,
        r#"{"resourceVersion":"1"}"#,
        r#"{"name":"p","resourceVersion":"1"}"#,
        r#"{"resourceVersion":"1","uid":"u"}"#,
        r#"{"name":"p","resourceVersion":"abc","uid":"u"}"#,
        r#"{"labels":{}}"#,
        r#"{"deletionTimestamp":"t","name":"p"}"#,
        r#"{"labels":null,"name":null,"uid":null}"#,
    ] {
        documents.push(format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{metadata}}}"#));
    }
    for document in documents {
        assert!(same(document.as_bytes(), &fields()), "{document}");
        assert!(same(document.as_bytes(), &[]), "{document}");
    }
}

#[test]
fn everything_else_is_left_to_the_decoder() {
    let deep = format!(r#""spec":{}{}"#, "[".repeat(101), "]".repeat(101));
    let mut documents: Vec<String> = [
        r#""spec":{"b":1,"a":2}"#,
        r#""spec":{"a":1,"a":2}"#,
        r#""spec":{"":1," ":2,"":3}"#,
        r#""spec":{"!":1,"":2}"#,
        r#""spec":{ "a":1}"#,
        r#""spec":"<""#,
        r#""spec":"\u003C""#,
        r#""spec":"\/""#,
        r#""spec":"\u000a""#,
        r#""spec":"\u0041""#,
        r#""spec":{"\u003C":1}"#,
        r#""spec":{"k:{\"b\":1}":1,"k:{\"a\":1}":1}"#,
        "\"spec\":\"\u{2028}\"",
        r#""spec":-0"#,
        r#""spec":01"#,
        r#""spec":1.0"#,
        r#""spec":1e3"#,
        r#""spec":1.5e3"#,
        r#""spec":0.0000001"#,
        r#""spec":12345678901234567890"#,
        r#""spec":0.12345678901234567"#,
        r#""spec":1."#,
        r#""spec":[1,]"#,
        r#""spec":{"a":1,}"#,
        r#""spec":tru"#,
        r#""spec":{"nodeName":{}}"#,
        r#""spec":{"nodeName":"\"n"}"#,
        r#""spec":{"nodeName":0.5}"#,
        r#""spec":{"nodeName":1e+21}"#,
        r#""spec":{"nodeName":12345678901234567000}"#,
        &deep,
    ]
    .map(|member| format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{}},{member}}}"#))
    .into();
    for metadata in [r#"{"selfLink":"/x"}"#, r#"{"labels":{"a":1}}"#, "null", r#"{"name":1}"#] {
        documents.push(format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{metadata}}}"#));
    }
    documents.push(r#"{"apiVersion":"v1","kind":"Pod"}"#.to_owned());
    documents.extend(["\n", " ", "x"].map(|end| format!("{POD}\n{end}")));
    for document in documents {
        assert!(scan(document.as_bytes(), &fields(), Anything).is_none(), "{document}");
    }
    assert!(
        scan(
            b"{\"apiVersion\":\"v1\",\"kind\":\"Pod\xff\",\"metadata\":{}}",
            &[],
            Anything
        )
        .is_none()
    );
}

/// Canonical is what decoding and encoding again leaves as it is, and nothing else.
#[track_caller]
fn is_told_apart(members: &str) {
    let document = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"zone":{members}}},"spec":{members}}}"#);
    let decoded = serde_json::from_str(&document).expect("JSON");
    let encoded = crate::encode_untyped(&decoded, MediaType::Json).unwrap();
    let is_canonical = encoded.strip_suffix(b"\n") == Some(document.as_bytes());
    assert_eq!(same(document.as_bytes(), &fields()), is_canonical, "{document}");
}

/// Whether a document is of the shape of another one; read so, it comes to the same as decoded.
#[track_caller]
fn is_alike(shape: &Shape<AnyText>, document: &[u8], fields: &[SelectableField]) -> bool {
    let revision = Revision::new(12_345).unwrap();
    let shown = String::from_utf8_lossy(document);
    let (mut room, mut short) = (Room::shared(), None);
    let fits = shape.serve(document, revision, &mut Vec::new(), &mut room, &mut short);
    let Some(short) = fits.and(short) else {
        return false;
    };
    let normalizer = JsonNormalizer::new(GroupVersionKind::new("", "v1", "Pod"));
    let long = normalizer.rewrite(document, revision, fields);
    let long = long.unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert_eq!(short.json, long.json, "{shown}");
    assert_eq!(short.resource_version, long.resource_version, "{shown}");
    assert_eq!(short.attributes, long.attributes, "{shown}");
    assert_eq!(short.media_type, long.media_type);
    true
}

#[test]
fn documents_that_are_alike_are_read_by_what_they_have_in_common() {
    let fields = fields();
    for (first, second, want) in [
        ("\"name\":\"p\"", "\"name\":\"another\"", true),
        ("\"name\":\"p\"", "\"name\":\"\"", true),
        ("\"name\":\"p\"", "\"name\":\"ö\"", true),
        ("\"app\":\"x\"", "\"app\":\"a text that does not lie in place\"", true),
        ("\"nodeName\":\"n1\"", "\"nodeName\":\"\"", true),
        ("\"image\":\"i\"", r#""image":"\"\u003c é 日本""#, true),
        (
            "\"uid\":\"u-1\"",
            "\"uid\":\"0f4c2b6e-5d0a-4a53-9d0c-6f3b1c2a7e11\"",
            true,
        ),
        // What is extracted is not unescaped here.
        ("\"name\":\"p\"", r#""name":"\"""#, false),
        ("\"name\":\"p\"", "\"name\":null", false),
        ("\"kind\":\"Pod\"", "\"kind\":\"Pot\"", false),
        ("\"app\"", "\"apq\"", false),
        ("1000", "1001", false),
        ("\"image\":\"i\"", "\"image\":\"<\"", false),
        ("\"image\":\"i\"", "\"image\":\"\\/\"", false),
        ("\"image\":\"i\"", "\"image\":\"\u{2028}\"", false),
        ("\"image\":\"i\"", "\"image\":\"i\" ", false),
    ] {
        for end in ["", "\n"] {
            let (learned, other) = (format!("{POD}{end}"), format!("{}{end}", POD.replace(first, second)));
            let shape = learn(learned.as_bytes(), &fields).expect("a shape");
            assert!(is_alike(&shape, learned.as_bytes(), &fields));
            assert_eq!(is_alike(&shape, other.as_bytes(), &fields), want, "{other}");
            // Those of another kind, and other fields of this one, have nothing to do with it.
            let mut shapes = Shapes::default();
            shapes.keep(0_u8, &fields, Some(shape));
            for (id, fields, want) in [(0, &*fields, true), (1, &*fields, false), (0, &[], false)] {
                let served = served(&mut shapes, id, learned.as_bytes(), fields);
                assert_eq!(served.is_ok(), want, "{id}");
            }
        }
    }
}

/// The served form of a document of a known shape, or what is to be done with it.
fn served<K: TextKind>(
    shapes: &mut Shapes<u8, K>,
    id: u8,
    document: &[u8],
    fields: &[SelectableField],
) -> Result<Normalized, Seen> {
    let mut served = None;
    match shapes.serve(id, document, Revision::MAX, fields, &mut Room::apart(), &mut served) {
        Seen::Served => Ok(served.expect("what was made")),
        other => Err(other),
    }
}

#[test]
fn documents_that_are_alike_in_most_texts_are_compared_by_the_others() {
    let (fields, mut shapes, mut count) = (fields(), Shapes::default(), 0);
    shapes.keep(0_u8, &fields, learn(POD.as_bytes(), &fields));
    let normalizer = JsonNormalizer::new(GroupVersionKind::new("", "v1", "Pod"));
    for number in 0..300_usize {
        // Most differ in a few texts, some in one that was the same so far, and some in an extracted one of those.
        let mut document = POD.replace("\"name\":\"p\"", &format!("\"name\":\"p{number}\""));
        document = document.replace("\"uid\":\"u-1\"", &format!("\"uid\":\"{:0>1$}\"", "u", number % 40));
        if number % 7 == 3 {
            document = document.replace("\"image\":\"i\"", &format!(r#""image":"\n{}""#, number % 3));
        }
        if number % 50 == 49 {
            document = document.replace("\"tier\":\"y\"", &format!("\"tier\":\"{number}é\""));
        }
        if number % 60 == 59 {
            document = document.replace("\"nodeName\":\"n1\"", "\"nodeName\":\"\"");
        }
        let short = served(&mut shapes, 0, document.as_bytes(), &fields);
        let long = normalizer.rewrite(document.as_bytes(), Revision::MAX, &fields).unwrap();
        if let Ok(short) = short {
            count += 1;
            assert_eq!(short.json, long.json, "{document}");
            assert_eq!(short.attributes, long.attributes, "{document}");
            assert_eq!(short.resource_version, long.resource_version, "{document}");
        }
        // The same with one byte more or other than before, at every place in turn.
        let mut damaged = document.clone().into_bytes();
        damaged[number * 3 % document.len()] = b"\"x\\{<1"[number % 6];
        if let Ok(short) = served(&mut shapes, 0, &damaged, &fields) {
            let long = normalizer.rewrite(&damaged, Revision::MAX, &fields).unwrap();
            assert_eq!((short.json, short.attributes), (long.json, long.attributes));
        } else {
            // Their being strange is none of the shape's fault.
            shapes.forgive();
        }
    }
    assert_eq!(count, 300);
}

#[test]
fn documents_that_differ_are_compared_ever_more_rarely() {
    let mut shapes = Shapes::default();
    shapes.keep(0_u8, &[], learn(POD.as_bytes(), &[]));
    let mut compared = 0;
    for number in 0..1000 {
        let other = POD.replace("1000", &format!("2{number:03}"));
        if matches!(served(&mut shapes, 0, other.as_bytes(), &[]), Err(Seen::Strange)) {
            compared += 1;
            shapes.keep(0, &[], learn(other.as_bytes(), &[]));
        }
    }
    assert!((15..40).contains(&compared), "{compared}");
    // Once they are alike again, all are compared.
    let alike = (0..200).filter(|_| {
        let seen = served(&mut shapes, 0, POD.as_bytes(), &[]);
        if matches!(seen, Err(Seen::Strange)) {
            shapes.keep(0, &[], learn(POD.as_bytes(), &[]));
        }
        seen.is_ok()
    });
    assert!(alike.count() > 60);
}

#[test]
fn keys_are_in_the_order_of_what_they_stand_for() {
    let keys = [
        "",
        r"\u0000",
        r"\u0001",
        r"\n",
        r"\u001f",
        " ",
        "!",
        r#"\""#,
        "#",
        r"\u0026",
        r"\u003c",
        "=",
        r"\u003e",
        "A",
        "Z",
        r"\\",
        "]",
        "a",
        r"a\u0000",
        r"a\u0000b",
        r"a\u003c",
        "aa",
        "k:{}",
        r#"k:{\"ip\":\"10.0.0.1\"}"#,
        r#"k:{\"type\":\"ContainersReady\"}"#,
        r#"k:{\"type\":\"Ready\"}"#,
        r#"k:{\"uid\":\"\u003c\"}"#,
        "k:{0}",
        "\u{7f}",
        "é",
        "ê",
        "\u{2027}",
        r"\u2028",
        r"\u2029",
        "\u{2028}",
        "\u{202a}",
        "日本語でおなじもの",
        "日本語でおなじもの2",
        "\u{1f600}",
        r"\ud83d\ude00",
        r"\u0061",
        r"\u003C",
        r"\/",
        "<",
        "longer than a word",
        r"longer than a word\u003c",
        "longer than a word=",
        "resourceVersion",
        r"resource\u003c",
        r"resourceVersion\u003c",
        r"resource\u2028",
    ];
    for first in keys {
        is_told_apart(&format!(r#"{{"{first}":{{}}}}"#));
        for second in keys {
            is_told_apart(&format!(r#"{{"{first}":1,"{second}":"x"}}"#));
        }
    }
}

#[test]
fn a_revision_goes_in_among_escaped_keys() {
    let keys = ["a", r"\u003c", r"resource\u003c", r"resource\u2028", "zone", "name"];
    for first in keys {
        for second in keys {
            let document =
                format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"{first}":null,"{second}":null}}}}"#);
            let decoded: serde_json::Value = serde_json::from_str(&document).unwrap();
            let is_canonical = serde_json::to_string(&decoded).unwrap()
                == document.replace(r"\u003c", "<").replace(r"\u2028", "\u{2028}");
            assert_eq!(same(document.as_bytes(), &[]), is_canonical, "{document}");
        }
    }
}

#[test]
fn a_field_is_found_under_an_escaped_name() {
    let field = SelectableField::with_path("odd", ["spec".to_owned(), "a<b".to_owned(), "\"".to_owned()], "none");
    for spec in [
        r#"{"a\u003cb":{"\"":"x"}}"#,
        r#"{"a\u003cb":{"\\":"x"}}"#,
        r#"{"a":{}}"#,
    ] {
        let document = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{}},"spec":{spec}}}"#);
        assert!(same(document.as_bytes(), std::slice::from_ref(&field)), "{document}");
    }
}

#[test]
fn no_change_of_a_byte_makes_the_two_ways_differ() {
    let (mut taken, mut alike, fields) = (0, 0, fields());
    let shape = learn(POD.as_bytes(), &fields).expect("a shape");
    for at in 0..POD.len() {
        for byte in *b"\"\\{}[]:,.0-aZz<\n\xe2\x00" {
            let mut document = POD.as_bytes().to_vec();
            document[at] = byte;
            taken += usize::from(same(&document, &fields));
            alike += usize::from(is_alike(&shape, &document, &fields));
        }
        let cut = [&POD.as_bytes()[..at], &POD.as_bytes()[at + 1..]].concat();
        taken += usize::from(same(&cut, &fields));
        alike += usize::from(is_alike(&shape, &cut, &fields));
    }
    assert!(taken > 500, "only {taken} were read the short way");
    assert!(alike > 300, "only {alike} were alike");
}
