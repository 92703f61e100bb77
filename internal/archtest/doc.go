// Package archtest keeps the house in order. Its tests read the module's own
// package graph and syntax and fail, with the reason, where a package imports
// what it may not, where the pure core reads a clock, where the approvals that
// tests inject could reach a server, and where a package has no comment.
//
// It holds tests only and exports nothing; rules_test.go is the table to read
// and to extend. A package that the table does not know fails, so a new one
// comes with its line:
//
//	{of: "store/redisstore", mayImport: []string{"store"}, why: "a driver knows its root and its library"},
//
// Imports of _test.go files are not judged, save that nothing else may use the
// test suites: a test may compose what the code may not.
package archtest
