package redislimiter

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]target{
		"redis://h":                    {form: formServer, addrs: []string{"h:6379"}},
		"redis://h:1/":                 {form: formServer, addrs: []string{"h:1"}},
		"redis://app@h:1/3":            {form: formServer, user: "app", addrs: []string{"h:1"}, db: 3, named: true},
		"redis://a%40b%3a@h?db=2":      {form: formServer, user: "a@b:", addrs: []string{"h:6379"}, db: 2, named: true},
		"rediss://10.0.0.1:6380":       {form: formServer, secure: true, addrs: []string{"10.0.0.1:6380"}},
		"redis://[::1]":                {form: formServer, addrs: []string{"[::1]:6379"}},
		"redis://[fe80::1%25]:7":       {form: formServer, addrs: []string{"[fe80::1%25]:7"}},
		"unix:///run/a:b@c/redis.sock": {form: formServer, network: "unix", addrs: []string{"/run/a:b@c/redis.sock"}},
		"unix:///r.sock?db=1":          {form: formServer, network: "unix", addrs: []string{"/r.sock"}, db: 1, named: true},
		"redis-sentinel://app@a,b:2/m": {form: formSentinel, user: "app", addrs: []string{"a:26379", "b:2"}, master: "m"},
		"rediss-sentinel://a/my.m?db=9": {
			form: formSentinel, secure: true, addrs: []string{"a:26379"}, master: "my.m", db: 9, named: true,
		},
		"redis-cluster://a,b:7":     {form: formCluster, addrs: []string{"a:6379", "b:7"}},
		"redis-cluster://a/0":       {form: formCluster, addrs: []string{"a:6379"}},
		"rediss-cluster://u@a,[::]": {form: formCluster, secure: true, user: "u", addrs: []string{"a:6379", "[::]:6379"}},
	} {
		if want.network == "" {
			want.network = "tcp"
		}
		got, err := parseURL(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if diff := cmp.Diff(&want, got, cmp.AllowUnexported(target{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", raw, diff)
		}
		if err := CheckURL(raw); err != nil {
			t.Errorf("CheckURL(%q) = %v", raw, err)
		}
	}
}

// Whatever is wrong, the error says what to write and repeats no secret.
func TestParseURLRefuses(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for raw, want := range map[string]error{
		"":                                      errScheme,
		"h:6379":                                errScheme,
		"http://h":                              errScheme,
		"Redis://h":                             errScheme,
		"redis+sentinel://h/m":                  errScheme,
		"redis:h":                               errScheme,
		"redis://":                              errHost,
		"redis:///0":                            errHost,
		"redis://:6379":                         errHost,
		"redis://app@":                          errHost,
		"redis-cluster://a,,b":                  errHost,
		"redis-cluster://a,b,":                  errHost,
		"redis-cluster://a, b":                  errHostForm,
		"redis://h:1:2":                         errHostForm,
		"redis://h#1":                           errHostForm,
		"redis://a b":                           errHostForm,
		"redis://h:":                            errPort,
		"redis://h:0":                           errPort,
		"redis://h:65536":                       errPort,
		"redis://h:port":                        errPort,
		"redis://a,b":                           errHosts,
		"redis://h/x":                           errDB,
		"redis://h/-1":                          errDB,
		"redis://h/0/":                          errDB,
		"redis://h?db=":                         errDB,
		"redis://h/1?db=1":                      errTwoDBs,
		"redis://h?db=1&db=1":                   errTwoDBs,
		"redis-sentinel://h":                    errMaster,
		"redis-sentinel://h/":                   errMaster,
		"redis-sentinel://h/m/1":                errMaster,
		"redis-sentinel://h/a m":                errMaster,
		"redis-cluster://h/1":                   errCluster,
		"redis-cluster://h?db=1":                errQuery,
		"redis://h?timeout=1s":                  errQuery,
		"redis://h?%":                           errQuery,
		"redis://%zz@h":                         errUser,
		"unix://redis.sock":                     errSocket,
		"unix:///":                              errSocket,
		"redis://:" + secret + "@h":             errPassword,
		"redis://app:" + secret + "@h":          errPassword,
		"redis://app:@h":                        errPassword,
		"redis://app:a/" + secret + "@h":        errPassword,
		"redis://app:a?" + secret + "@h":        errPassword,
		"redis://app:a?" + secret + "=1@h":      errPassword,
		"redis://app:a@" + secret + "@h":        errPassword,
		"redis://app:a#" + secret + "@h":        errPassword,
		"redis://h?password=" + secret:          errPassword,
		"redis://h?auth=" + secret:              errPassword,
		"redis-sentinel://:" + secret + "@a/m":  errPassword,
		"redis-cluster://a:1,:" + secret + "@b": errPassword,
		// Someone forgot the host, or the @.
		"redis://app:" + secret:              errPort,
		"redis://:" + secret:                 errHost,
		"redis://app:1/" + secret:            errDB,
		"redis://h?" + secret:                errQuery,
		"redis-sentinel://h/" + secret + "!": errMaster,
	} {
		_, err := parseURL(raw)
		if !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: the error tells the secret: %v", raw, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("redis://app@h:1/3")
	f.Add("rediss-sentinel://u%40@[::1]:2,b/m?db=1")
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := parseURL(raw)
		if err != nil {
			if got != nil {
				t.Errorf("%q: a target in spite of %v", raw, err)
			}
			return
		}
		if len(got.addrs) == 0 || got.form == 0 || (got.master == "") == (got.form == formSentinel) || got.db < 0 {
			t.Errorf("%q: incomplete: %+v", raw, got)
		}
	})
}
