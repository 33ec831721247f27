use super::*;

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.arrow");
    let rows: Vec<TokenRow> = (0..ROWS_PER_BATCH as u32 + 3)
        .map(|i| TokenRow {
            id: format!("{i:032x}").into(),
            prompt_ids: vec![i, 2, 3].into(),
            chosen_ids: (0..i % 5).collect(),
            rejected_ids: vec![7].into(),
            truncated: i % 2 == 0,
            flipped: i % 3 == 0,
            source: "s".into(),
            prompt_id: format!("{i:064x}").into(),
            noise_kind: "uniform".into(),
            noise_p: f64::from(i) / 8192.0,
            weight: (i % 4 > 0).then(|| f64::from(i % 4) / 2.0),
        })
        .collect();
    write(&path, &rows).unwrap();
    assert_eq!(read(&path).unwrap(), rows);
    assert_eq!(first(&path).unwrap().as_ref(), rows.first());
    let empty = dir.path().join("empty.arrow");
    write(&empty, &[]).unwrap();
    assert_eq!((first(&empty).unwrap(), read(&empty).unwrap()), (None, Vec::new()));
    let whole = std::fs::read(&path).unwrap();
    let pieces = [&rows[..5], &rows[5..5], &rows[5..4000], &rows[4000..]].map(pack);
    assert_eq!(write_pieces(&path, pieces).unwrap() as usize, rows.len());
    assert!(std::fs::read(&path).unwrap() == whole, "the bytes depend on how the rows are cut into pieces");
    // A file without weights, alone and joined with others.
    let bare = dir.path().join("bare.arrow");
    let file = |weights: Option<ArrayRef>| {
        let batch = to_batch(&Arc::new(schema()), &rows[..3]).unwrap();
        let mut batch = batch.project(&(0..13).collect::<Vec<_>>()).unwrap();
        if let Some(weights) = weights {
            let (fields, mut columns) = (batch.schema(), batch.columns().to_vec());
            let mut fields = fields.fields().to_vec();
            fields.push(Arc::new(Field::new(col::WEIGHT, weights.data_type().clone(), true)));
            columns.push(weights);
            batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        }
        let mut writer = FileWriter::try_new(File::create(&bare).unwrap(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    };
    file(None);
    let plain = |i: usize| TokenRow { weight: None, ..rows[i].clone() };
    assert_eq!(read(&bare).unwrap(), (0..3).map(plain).collect::<Vec<_>>());
    let joined = dir.path().join("joined.arrow");
    assert_eq!(write_files(&joined, &[bare.clone(), path.clone()]).unwrap() as usize, rows.len() + 3);
    let back = read(&joined).unwrap();
    assert!(back[1] == plain(1) && back[3..] == rows[..] && plain(1).loss_weight() == 1.0);
    for (weights, found) in [
        (Arc::new(Float64Array::from(vec![1.0, -0.5, 2.0])) as ArrayRef, "-0.5"),
        (Arc::new(Float64Array::from(vec![f64::INFINITY; 3])) as ArrayRef, "inf"),
        (Arc::new(StringArray::from(vec!["1"; 3])) as ArrayRef, "Utf8"),
    ] {
        file(Some(weights));
        let told = read(&bare).unwrap_err().to_string();
        assert!(told.contains("`weight`: expected Float64 from 0") && told.ends_with(found), "{told}");
    }
    // The columns of an earlier version.
    let old = schema().project(&(0..10).collect::<Vec<_>>()).unwrap();
    let batch = to_batch(&Arc::new(schema()), &rows[..2]).unwrap().project(&(0..10).collect::<Vec<_>>()).unwrap();
    let mut writer = FileWriter::try_new(File::create(&path).unwrap(), &old).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    let error = read(&path).unwrap_err();
    assert!(error.to_string().contains("no column `prompt_id`"), "{error}");
    assert!(error.hint().unwrap().contains("prepare"));
    std::fs::write(&path, b"ARROW1 not really").unwrap();
    assert!(matches!(read(&path), Err(Error::Artifact { .. })));
}
