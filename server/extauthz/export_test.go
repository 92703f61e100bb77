package extauthz

// MetadataOf is how denials make their metadata, for the proof that answers
// written for the wire say the same.
var MetadataOf = metadata
