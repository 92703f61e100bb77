package policy

import (
	"fmt"
	"strings"
	"testing"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// manyRoutes are shapes of large policies, by what their routes have alike.
var manyRoutes = map[string]func(i int) *policyv1.HTTPRoute{
	"the first segments": func(i int) *policyv1.HTTPRoute {
		return &policyv1.HTTPRoute{Methods: []string{"GET", "POST"}, Path: fmt.Sprintf("/api/v1/kind-%d/{id}", i)}
	},
	"nothing but names": func(i int) *policyv1.HTTPRoute {
		return &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: fmt.Sprintf("/{tenant}/kind-%d/{id}", i)}
	},
	"the path": func(i int) *policyv1.HTTPRoute {
		return &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: "/leads/{id}", Hosts: []string{fmt.Sprintf("tenant-%d.example.com", i)}}
	},
	"the path, below hosts": func(i int) *policyv1.HTTPRoute {
		return &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: "/leads/{id}", Hosts: []string{fmt.Sprintf("*.tenant-%d.example.com", i)}}
	},
	"a catch-all around them": func(i int) *policyv1.HTTPRoute {
		if i == 0 {
			return &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: "/{all...}"}
		}
		return &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: fmt.Sprintf("/api/kind-%d/{id}/{rest...}", i)}
	},
}

func routesOf(n int, route func(i int) *policyv1.HTTPRoute) *policyv1.Policy {
	p := &policyv1.Policy{Http: &policyv1.HTTP{AgentFrom: []*policyv1.IdentitySource{{From: "principal"}}, Routes: map[string]*policyv1.HTTPRoute{}}}
	for i := range n {
		r := route(i)
		r.Action, r.Resource = "read", "a"
		p.Http.Routes[fmt.Sprintf("route-%d", i)] = r
	}
	return p
}

// TestRivalsAreFew counts the pairs of routes that are compared. That of every
// route with every other one would be 50 million.
func TestRivalsAreFew(t *testing.T) {
	t.Parallel()
	const n = 10_000
	for name, route := range manyRoutes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := mustCompile(t, routesOf(n, route))
			trees := rivalTrees{}
			for _, r := range s.http.routes {
				trees.add(r.methods[0], r.hosts[0], r)
			}
			pairs := 0
			for _, r := range s.http.routes {
				pairs += len(trees.rivals(r))
			}
			if len(s.http.routes) != n || pairs > 2*n {
				t.Errorf("%d pairs of %d routes are compared", pairs, len(s.http.routes))
			}
		})
	}
}

// TestManyEqualRoutes holds the report of routes that are all the same to its bound.
func TestManyEqualRoutes(t *testing.T) {
	t.Parallel()
	p := routesOf(10_000, func(int) *policyv1.HTTPRoute { return &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: "/{id}"} })
	r := &report{}
	compileSource(&source{policy: p}, r)
	list := r.errors()
	if len(list) != 1001 || !strings.Contains(list[1000].Message, "more faults are not shown") || !strings.Contains(list[0].Message, "they match the same requests") {
		t.Errorf("%d errors, the first %v, the last %v", len(list), list[0], list[len(list)-1])
	}
}

// BenchmarkCompileRoutes compiles policies of many routes.
func BenchmarkCompileRoutes(b *testing.B) {
	for name, route := range manyRoutes {
		for _, n := range []int{2_000, 4_000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(name, " ", "-"), n), func(b *testing.B) {
				p := routesOf(n, route)
				for b.Loop() {
					mustCompile(b, p)
				}
			})
		}
	}
}

// routeBenches are requests of a policy of 10,000 routes.
var routeBenches = []struct{ name, host, path string }{
	{"literal", "crm.example.com", "api/v1/ping"},
	{"name", "crm.example.com", "api/v1/kind-77/42"},
	{"none", "crm.example.com", "api/v1/kind-77/42/x"},
}

func routeBench(tb testing.TB) *HTTP {
	tb.Helper()
	p := routesOf(10_000, manyRoutes["the first segments"])
	p.Http.Routes["ping"] = &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: "/api/v1/ping", Action: "read", Resource: "ping"}
	p.Http.Routes["below"] = &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: "/b", Hosts: []string{"*.example.com"}, Action: "read", Resource: "b"}
	return mustCompile(tb, p).http
}

// TestRouteAllocates holds a look-up to no allocation, and the call of a route
// without names in it too. It counts for the whole process, so nothing runs beside it.
func TestRouteAllocates(t *testing.T) { //nolint:paralleltest // it counts allocations
	h := routeBench(t)
	for _, bench := range routeBenches {
		segments := strings.Split(bench.path, "/")
		n := testing.AllocsPerRun(200, func() {
			host, err := NormalHost(bench.host)
			if err != nil {
				t.Fatal(err)
			}
			for _, segment := range segments {
				if err := CheckPathSegment(segment); err != nil {
					t.Fatal(err)
				}
			}
			r := h.Route("GET", host, segments)
			if (r == nil) != (bench.name == "none") {
				t.Fatalf("%s is of %v", bench.path, r)
			}
			if r != nil {
				action, resource := r.Call(segments)
				if action == "" || resource == "" {
					t.Fatal("no call comes of it")
				}
			}
		})
		if n > 0 {
			t.Errorf("%s: %v allocations", bench.name, n)
		}
	}
}

func BenchmarkRoute(b *testing.B) {
	h := routeBench(b)
	for _, bench := range routeBenches {
		b.Run(bench.name, func(b *testing.B) {
			segments := strings.Split(bench.path, "/")
			b.ReportAllocs()
			for b.Loop() {
				h.Route("GET", bench.host, segments)
			}
		})
	}
}

// FuzzRoutePath holds the reader of paths to never surprise: what it accepts
// has a request that the route is about, and that makes a well-formed call.
func FuzzRoutePath(f *testing.F) {
	for _, seed := range []string{"/", "/leads", "/leads/", "/leads/{id}", "/leads/{id}:merge", "/vip-{id}", "/files/{path...}", "/{a}/{b}/{c...}", "/{a", "/a}b{", "/{...}", "/é{x}ü", "/%{x}", "/..", "//", "/a/../b", "/%41", "/a*b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		tokens, message, fix := parseRoutePath(path)
		if (message == "") != (fix == "") || (message == "") != (tokens != nil) {
			t.Fatalf("%q: %v, %q, %q", path, tokens, message, fix)
		}
		if message != "" {
			return
		}
		example := exampleOf(tokens, tokens)
		segments := strings.Split(example[1:], "/")
		for _, segment := range segments {
			if err := CheckPathSegment(segment); err != nil {
				t.Fatalf("%q has the example %q, which %v", path, example, err)
			}
		}
		resource := "a"
		for i := range tokens {
			if tokens[i].name != "" {
				resource += "/{" + tokens[i].name + "}"
			}
		}
		if len(resource) > MaxResourceBytes || len(path) > MaxResourceBytes {
			return
		}
		p := routesOf(1, func(int) *policyv1.HTTPRoute { return &policyv1.HTTPRoute{Methods: []string{"GET"}, Path: path} })
		p.Http.Routes["route-0"].Resource = resource
		r := &report{}
		c := &compiler{src: &source{policy: p}, doc: p, r: r, s: &Snapshot{}}
		c.compileHTTP()
		if err := r.err(); err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		found := c.s.http.Route("GET", "a.test", segments)
		if found == nil {
			t.Fatalf("%q is not about %q", path, example)
		}
		action, text := found.Call(segments)
		if CheckAction(action) != nil || CheckResource(text) != nil {
			t.Fatalf("%q makes %s on %q of %q", path, action, text, example)
		}
		for name, value := range found.PathParameters(segments) {
			t.Fatalf("%q has the parameter %s=%q, which the resource holds", path, name, value)
		}
	})
}
