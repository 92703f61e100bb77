// Package fileaudit keeps the audit in files: JSON Lines segments in one
// directory, chained by hashes and vouched for by signed checkpoints.
//
//	log, err := fileaudit.Open(fileaudit.Config{Dir: "/var/lib/kelpie/audit"})
//	...
//	err = log.Append(ctx, record, audit.Sync) // On the disk when it returns nil.
//	...
//	key, err := fileaudit.ReadPublicKey("/etc/kelpie/audit.pub")
//	result, err := fileaudit.Verify(ctx, "/var/lib/kelpie/audit", key)
//
// One process writes a directory; any number may read it meanwhile. It does not
// keep records anywhere else, and it does not decide what is recorded.
package fileaudit
