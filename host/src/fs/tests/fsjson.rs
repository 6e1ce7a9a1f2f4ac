//! Good and bad `fs.json` files.

use std::fmt::Write;

use crate::fs::fsjson::{FsJson, FsJsonError, RowBody, parse, unix_mode};
use crate::fs::tests::SAMPLE;
use crate::limits;

fn with_rows(rows: &str) -> Result<FsJson, FsJsonError> {
    parse(format!("{{\"fsroot\":[{rows}],\"version\":3,\"size\":0}}").as_bytes(), "fs.json")
}

/// The error without its position.
fn error_of(result: Result<FsJson, FsJsonError>) -> String {
    let error = result.unwrap_err().to_string();
    assert!(!error.contains('\n'));
    error.rsplit_once(" (at byte").expect("a position").0.to_owned()
}

#[test]
fn parse_v86_tools_file_is_taken_over() {
    let index = parse(SAMPLE.as_bytes(), "fs.json").unwrap();
    assert_eq!((index.size, index.row_count, index.rows.len()), (204113, 6, 6));
    let motd = &index.rows[1];
    assert_eq!((motd.parent, &motd.name[..], motd.size, motd.mtime), (1, &b"motd"[..], 5, 200));
    assert_eq!((motd.mode, motd.uid, motd.gid, motd.qid_path), (0o100644, 0, 0, 3));
    assert_eq!(motd.body, RowBody::File(Some("hello".into())));
    assert_eq!((index.rows[0].uid, index.rows[0].gid), (1, 2));
    assert_eq!((index.rows[5].parent, &index.rows[5].body), (0, &RowBody::Symlink((*b"etc").into())));
}

#[test]
fn parse_old_env86_file_with_go_modes_gets_unix_modes() {
    // Sorted keys, HTML escapes, a newline at the end, numbers beyond 31 bits.
    let text = concat!(
        r#"{"fsroot":[["su \u003c\u0026\u003e",3,5,8421869,0,0,"x.bin"],["tmp",4096,5,2148549119,0,0,"#,
        r#"[["l",4,5,134259199,0,0,"/etc"]]]],"size":4103,"version":3}"#,
        "\n"
    );
    let index = parse(text.as_bytes(), "fs.json").unwrap();
    let seen: Vec<_> = index.rows.iter().map(|row| (String::from_utf8_lossy(&row.name), row.mode)).collect();
    assert_eq!(seen, [("su <&>".into(), 0o104755), ("tmp".into(), 0o041777), ("l".into(), 0o120777)]);
}

#[test]
fn unix_mode_keeps_real_modes() {
    for mode in [0o100644, 0o104755, 0o041777, 0o042755, 0o120777] {
        assert_eq!(unix_mode(mode), mode);
    }
    assert_eq!(unix_mode(2147500525), 0o040755);
}

#[test]
fn parse_devices_are_left_out_but_counted() {
    let index = with_rows(
        r#"["null",0,0,8630,0,0],["sda",0,0,25008,0,0,"x"],["fifo",0,0,4516,0,0],["sock",0,0,49645,0,0,[[]]],["f",0,0,33188,0,0,"e"]"#,
    )
    .unwrap();
    assert_eq!((index.left_out, index.row_count, index.rows.len()), (4, 5, 1));
    assert_eq!(index.rows[0].qid_path, 6);
}

#[test]
fn parse_order_and_unknown_keys_do_not_matter() {
    let index = parse(
        b"\xef\xbb\xbf { \"size\" : 7, \"x\": {\"a\":[1,\"]\"]}, \"version\":3.0 ,\"fsroot\" : [ ] } ",
        "f",
    );
    assert_eq!(index.unwrap().size, 7);
    let no_size = parse(br#"{"version":3,"fsroot":[["a",5,0,33188,0,0,"x"],["b",6,-1,33188,0,0,"x"]]}"#, "f");
    assert_eq!(no_size.unwrap().size, 11);
}

#[test]
fn parse_empty_file_needs_no_content_file() {
    assert_eq!(with_rows(r#"["f",0,0,33188,0,0]"#).unwrap().rows[0].body, RowBody::File(None));
    let error = error_of(with_rows(r#"["f",1,0,33188,0,0]"#));
    assert_eq!(error, "fs.json: /f: content file: expected a string, found ']'");
}

#[test]
fn parse_name_that_is_not_utf8_comes_through() {
    let index = with_rows(r#"["caf\udce9",0,0,33188,0,0]"#).unwrap();
    assert_eq!(&index.rows[0].name[..], b"caf\xe9");
}

#[test]
fn parse_bad_rows_name_path_and_field() {
    let cases = [
        (r#"["",0,0,33188,0,0]"#, "/: name: empty"),
        (r#"[".",0,0,33188,0,0]"#, "/.: name: '.' and '..' are not allowed"),
        (r#"["..",0,0,33188,0,0]"#, "/..: name: '.' and '..' are not allowed"),
        (r#"["/etc",0,0,33188,0,0]"#, "//etc: name: contains '/'"),
        (r#"["a/b",0,0,33188,0,0]"#, "/a/b: name: contains '/'"),
        (r#"["a\u0000",0,0,33188,0,0]"#, "/a\\u{0}: name: contains a NUL character"),
        (r#"[5,0,0,33188,0,0]"#, "/: name: expected a string, found a number"),
        (r#"["f","0",0,33188,0,0]"#, "/f: size: expected a number, found a string"),
        (r#"["f",-1,0,33188,0,0]"#, "/f: size: expected an integer from 0 to 9223372036854775807"),
        (r#"["f",1.5,0,33188,0,0]"#, "/f: size: expected an integer from 0 to 9223372036854775807"),
        (r#"["f",2e12,0,33188,0,0,"x"]"#, "/f: size: larger than 1099511627776 bytes"),
        (r#"["f",0,null,33188,0,0]"#, "/f: mtime: expected a number, found null"),
        (r#"["f",0,0,4294967296,0,0]"#, "/f: mode: expected an integer from 0 to 4294967295"),
        (r#"["f",0,0,33188,[],0]"#, "/f: uid: expected a number, found an array"),
        (r#"["f",0,0,33188,0,true]"#, "/f: gid: expected a number, found a truth value"),
        (r#"["f",0,0,33188,0]"#, "/f: gid: expected a number, found ']'"),
        (r#"["f",0,0,33188,0,0,7]"#, "/f: content file: expected a string, found a number"),
        (r#"["f",0,0,33188,0,0,"a/../b"]"#, "/f: content file: not a plain file name"),
        (r#"["f",0,0,33188,0,0,".."]"#, "/f: content file: not a plain file name"),
        (r#"["f",0,0,33188,0,0,"x",1]"#, "/f: a row with more than seven elements"),
        (r#"["d",0,0,16877,0,0]"#, "/d: contents of the directory: expected an array of rows, found ']'"),
        (
            r#"["d",0,0,16877,0,0,"x"]"#,
            "/d: contents of the directory: expected an array of rows, found a string",
        ),
        (r#"["d",0,0,16877,0,0,[],1]"#, "/d: a row with more than seven elements"),
        (r#"["d",0,0,16877,0,0,[7]]"#, "/d/: expected a row, which is an array, found a number"),
        (
            r#"["d",0,0,16877,0,0,[["e",0,0,16877,0,0,[["f",0]]]]]"#,
            "/d/e/f: mtime: expected a number, found ']'",
        ),
        (r#"["l",0,0,41471,0,0]"#, "/l: link target: expected a string, found ']'"),
        (r#"["l",0,0,41471,0,0,""]"#, "/l: link target: no possible target of a link"),
        (r#"["a",0,0,33188,0,0],"#, "/: expected a row, which is an array, found ']'"),
        (r#"["a",0,0,33188,0,0]["b",0,0,33188,0,0]"#, "/: expected ',', found an array"),
        (r#"["\u001b[31m",0]"#, "/\\u{1b}[31m: mtime: expected a number, found ']'"),
    ];
    for (rows, expected) in cases {
        assert_eq!(error_of(with_rows(rows)), format!("fs.json: {expected}"), "{rows}");
    }
}

#[test]
fn parse_bad_top_level_names_field() {
    let cases = [
        ("", "expected an object, found the end of the file"),
        ("[]", "expected an object, found an array"),
        ("{}", "version: missing"),
        (r#"{"version":3}"#, "fsroot: missing"),
        (r#"{"fsroot":[]}"#, "version: missing"),
        (
            r#"{"fsroot":["in","the","old","way"],"version":2}"#,
            "version: expected 3, other versions cannot be read",
        ),
        (r#"{"fsroot":[],"version":"3"}"#, "version: expected a number, found a string"),
        (r#"{"fsroot":[],"version":3,"version":3}"#, "version: given twice"),
        (r#"{"fsroot":[],"fsroot":[],"version":3}"#, "fsroot: given twice"),
        (r#"{"fsroot":{},"version":3}"#, "/: expected an array of rows, found an object"),
        (r#"{"fsroot":[],"version":3,"size":-1}"#, "size: expected an integer from 0 to 9223372036854775807"),
        (r#"{"fsroot":[],"version":3}x"#, "expected the end of the file, found something that is not JSON"),
        (r#"{"fsroot":[],"version":3,}"#, "expected a string, found '}'"),
    ];
    for (text, expected) in cases {
        assert_eq!(error_of(parse(text.as_bytes(), "x/fs.json")), format!("x/fs.json: {expected}"), "{text}");
    }
    assert_eq!(error_of(parse(b"{\"a\xff\":1}", "f")), "f: not UTF-8");
}

#[test]
fn parse_truncated_anywhere_is_an_error() {
    let text = SAMPLE.trim_end();
    for cut in 0..text.len() {
        assert!(parse(&text.as_bytes()[..cut], "fs.json").is_err(), "cut at {cut}");
    }
    assert!(parse(text.as_bytes(), "fs.json").is_ok());
    let in_large = text.find("large").unwrap() + 10;
    assert_eq!(
        error_of(parse(&text.as_bytes()[..in_large], "fs.json")),
        "fs.json: /etc/large: mtime: expected a number, found the end of the file"
    );
}

#[test]
fn parse_depth_limit_is_enforced() {
    let nested = |depth: usize| {
        let rows = r#"["d",0,0,16877,0,0,["#.repeat(depth) + &"]]".repeat(depth);
        with_rows(&rows)
    };
    assert_eq!(nested(limits::MAX_TREE_DEPTH - 1).unwrap().rows.len(), limits::MAX_TREE_DEPTH - 1);
    assert!(error_of(nested(limits::MAX_TREE_DEPTH)).contains("more than 1024 directories deep"));
    assert!(nested(1_000_000).is_err());
}

#[test]
fn parse_name_and_target_limits_are_enforced() {
    let file = |length: usize| with_rows(&format!(r#"["{}",0,0,33188,0,0]"#, "n".repeat(length)));
    assert!(file(limits::MAX_FILE_NAME).is_ok());
    assert!(error_of(file(limits::MAX_FILE_NAME + 1)).ends_with("…: name: longer than 255 bytes"));
    let link = |length: usize| with_rows(&format!(r#"["l",0,0,41471,0,0,"{}"]"#, "t".repeat(length)));
    assert!(link(limits::MAX_LINK_TARGET).is_ok());
    assert!(link(limits::MAX_LINK_TARGET + 1).is_err());
}

#[test]
fn parse_row_limit_is_enforced() {
    // Left-out rows take no memory but count.
    let rows = vec!["[\"s\",0,0,0,0,0]"; limits::MAX_INODES].join(",");
    assert_eq!(with_rows(&rows).unwrap().row_count, limits::MAX_INODES as u64);
    assert!(error_of(with_rows(&(rows + ",[\"s\",0,0,0,0,0]"))).contains("more than 4194304 files"));
}

/// `count` files in directories of 100.
pub(super) fn many_files(count: usize) -> String {
    let mut rows = String::new();
    for dir in 0..count.div_ceil(100) {
        let comma = if dir == 0 { "" } else { "," };
        write!(rows, "{comma}[\"directory-{dir}\",4096,1700000000,16877,0,0,[").unwrap();
        for file in 0..99 {
            let comma = if file == 0 { "" } else { "," };
            let hash = (dir * 100 + file).wrapping_mul(2_654_435_761) as u32;
            write!(rows, "{comma}[\"file-{file}.txt\",1234,1700000000,33188,0,0,\"{hash:08x}.bin\"]")
                .unwrap();
        }
        rows.push_str("]]");
    }
    format!("{{\"fsroot\":[{rows}],\"version\":3,\"size\":12345678}}")
}
