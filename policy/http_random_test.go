package policy_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/policy"
)

// naiveRoute is a route with one method and one host: a route with several is
// so many of these. The referee reads the path as a regular expression, looks
// at every route for every request, and finds out by trying every request of
// naiveUniverse which of two routes is the more specific one.
type naiveRoute struct {
	name, method   string
	hosts, paths   *regexp.Regexp
	onHost, onPath []bool // which hosts and paths of the universe are its own
}

// What routes are made of. The universe has, for any two of them, a request of
// one and not of the other if there is any, and a request of both if there is
// any: the texts before and behind a name hold no c, so that with a c between
// them they show where two differ, and the longer ones of two where they meet.
var (
	naiveTexts    = []string{"a", "ab", "aab", "c"}
	naivePrefixes = []string{"", "a", "aa"}
	naiveSuffixes = []string{"", "b", "ab"}
	naiveHosts    = []string{"", "", "", "t", "x.t", "a.x.t", "*.t", "*.x.t"}
)

type naiveUniverse struct{ hosts, paths []string }

func newNaiveUniverse() naiveUniverse {
	u := naiveUniverse{hosts: []string{"t", "x.t", "a.x.t", "b.a.x.t", "y.t", "z"}, paths: []string{"/"}}
	segments := slices.Clone(naiveTexts)
	for _, prefix := range naivePrefixes {
		for _, suffix := range naiveSuffixes {
			if text := prefix + "c" + suffix; !slices.Contains(segments, text) {
				segments = append(segments, text)
			}
		}
	}
	last := []string{""}
	for depth := range 3 {
		var next []string
		for _, path := range last {
			for _, segment := range segments {
				next = append(next, path+"/"+segment)
			}
		}
		for _, path := range next {
			u.paths = append(u.paths, path, path+"/")
			if depth == 2 {
				u.paths = append(u.paths, path+"/c")
			}
		}
		last = next
	}
	return u
}

func drawPath(r *rapid.T) string {
	var path strings.Builder
	n := rapid.SampledFrom([]int{0, 1, 1, 1, 2, 2, 3}).Draw(r, "segments")
	for i := range n {
		switch rapid.IntRange(0, 9).Draw(r, "kind") {
		case 0, 1, 2, 3:
			path.WriteString("/" + rapid.SampledFrom(naiveTexts).Draw(r, "text"))
		case 4, 5, 6:
			fmt.Fprintf(&path, "/{n%d}", i)
		case 7, 8:
			fmt.Fprintf(&path, "/%s{n%d}%s", rapid.SampledFrom(naivePrefixes).Draw(r, "prefix"), i, rapid.SampledFrom(naiveSuffixes).Draw(r, "suffix"))
		default:
			path.WriteString("/{rest...}")
			return path.String()
		}
	}
	if n == 0 || rapid.IntRange(0, 9).Draw(r, "slash") == 0 {
		path.WriteByte('/')
	}
	return path.String()
}

var naiveName = regexp.MustCompile(`\{n\d\}`)

func newNaiveRoute(u naiveUniverse, name, method, host, path string) naiveRoute {
	expression, _, rest := strings.Cut(path, "{rest...}")
	parts := naiveName.Split(expression, -1)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	expression = strings.Join(parts, "[^/]+")
	if rest {
		expression += "[^/]+(/[^/]+)*"
	}
	n := naiveRoute{name: name, method: method, paths: regexp.MustCompile("^" + expression + "$"), hosts: regexp.MustCompile("")}
	if below, found := strings.CutPrefix(host, "*"); found {
		n.hosts = regexp.MustCompile("^.+" + regexp.QuoteMeta(below) + "$")
	} else if host != "" {
		n.hosts = regexp.MustCompile("^" + regexp.QuoteMeta(host) + "$")
	}
	for _, host := range u.hosts {
		n.onHost = append(n.onHost, n.hosts.MatchString(host))
	}
	for _, path := range u.paths {
		n.onPath = append(n.onPath, n.paths.MatchString(path))
	}
	return n
}

// meets tells whether a request of the universe is of both.
func (n naiveRoute) meets(o naiveRoute) bool {
	return n.method == o.method && naiveBoth(n.onHost, o.onHost) && naiveBoth(n.onPath, o.onPath)
}

// within tells whether every request of the universe that is of n is of o too.
func (n naiveRoute) within(o naiveRoute) bool {
	return n.method == o.method && naiveWithin(n.onHost, o.onHost) && naiveWithin(n.onPath, o.onPath)
}

func naiveBoth(a, b []bool) bool {
	for i := range a {
		if a[i] && b[i] {
			return true
		}
	}
	return false
}

func naiveWithin(a, b []bool) bool {
	for i := range a {
		if a[i] && !b[i] {
			return false
		}
	}
	return true
}

// drawRoutes makes an http section, and the routes in it as the referee reads them.
func drawRoutes(r *rapid.T, u naiveUniverse) (string, []naiveRoute) {
	var text strings.Builder
	text.WriteString("http:\n  agent_from: [{from: principal}]\n  routes:\n")
	var routes []naiveRoute
	for i := range rapid.IntRange(2, 5).Draw(r, "routes") {
		name, path := fmt.Sprintf("r%d", i), drawPath(r)
		methods := rapid.SampledFrom([][]string{{"GET"}, {"GET"}, {"POST"}, {"GET", "POST"}}).Draw(r, "methods")
		hosts := rapid.SliceOfNDistinct(rapid.SampledFrom(naiveHosts), 1, 2, rapid.ID[string]).Draw(r, "hosts")
		if slices.Contains(hosts, "") {
			hosts = []string{""}
		}
		fmt.Fprintf(&text, "    %s: {methods: [%s], path: %q, action: read, resource: a", name, strings.Join(methods, ", "), path)
		if hosts[0] != "" {
			fmt.Fprintf(&text, ", hosts: [\"%s\"]", strings.Join(hosts, `", "`))
		}
		text.WriteString("}\n")
		for _, method := range methods {
			for _, host := range hosts {
				routes = append(routes, newNaiveRoute(u, name, method, host, path))
			}
		}
	}
	return text.String(), routes
}

// naiveRoutesClash tells whether two routes share requests with neither being
// the more specific one.
func naiveRoutesClash(routes []naiveRoute) bool {
	for i, a := range routes {
		for _, b := range routes[:i] {
			if a.name != b.name && a.meets(b) && a.within(b) == b.within(a) {
				return true
			}
		}
	}
	return false
}

// naiveFind is the route of a request that is within all others of it, or "".
func naiveFind(routes []naiveRoute, method string, host, path int) string {
	var of []naiveRoute
	for _, one := range routes {
		if one.method == method && one.onHost[host] && one.onPath[path] {
			of = append(of, one)
		}
	}
	for _, one := range of {
		if !slices.ContainsFunc(of, func(other naiveRoute) bool { return one.name != other.name && !one.within(other) }) {
			return one.name
		}
	}
	return ""
}

// TestHTTPRandom compares Compile and Route with the referee.
func TestHTTPRandom(t *testing.T) {
	t.Parallel()
	u := newNaiveUniverse()
	split := make([][]string, len(u.paths))
	for i, path := range u.paths {
		split[i] = strings.Split(path[1:], "/")
	}
	compiled, refused, found := 0, 0, 0
	rapid.Check(t, func(r *rapid.T) {
		text, routes := drawRoutes(r, u)
		s, err := policy.Compile([]policy.Document{{Name: "p.yaml", Data: []byte(text)}})
		ambiguous := naiveRoutesClash(routes)
		if (err != nil) != ambiguous {
			r.Fatalf("ambiguous: %v, and the compiler says %v of\n%s", ambiguous, err, text)
		}
		if ambiguous {
			refused++
			checkAmbiguities(r, err, text)
			return
		}
		compiled++
		for p := range u.paths {
			for host := range u.hosts {
				for _, method := range []string{"GET", "POST"} {
					want, got := naiveFind(routes, method, host, p), ""
					if route := s.HTTP().Route(method, u.hosts[host], split[p]); route != nil {
						got = strings.TrimPrefix(route.ID, "http/")
						found++
					}
					if got != want {
						r.Fatalf("%s %s%s is of %q, want %q in\n%s", method, u.hosts[host], u.paths[p], got, want, text)
					}
				}
			}
		}
	})
	t.Logf("%d sections compiled, with %d requests that have a route; %d refused", compiled, found, refused)
}

// checkAmbiguities tells that nothing but ambiguity is wrong.
func checkAmbiguities(r *rapid.T, err error, text string) {
	var list policy.Errors
	if !errors.As(err, &list) {
		r.Fatalf("%v is no list of errors", err)
	}
	for _, e := range list {
		if !strings.Contains(e.Message, "shares requests with http/r") {
			r.Fatalf("%v in\n%s", e, text)
		}
	}
}
