package cli

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
)

// standingFlags say what a yes allows besides, in future.
type standingFlags struct {
	uses     uint32
	within   time.Duration
	resource string
	maxCost  float64
	bounds   []string
	set      *pflag.FlagSet
}

func (f *standingFlags) register(set *pflag.FlagSet) {
	f.set = set
	set.Uint32Var(&f.uses, "standing", 0, "let so many more calls like this one through without asking, 1 to 1000")
	set.DurationVar(&f.within, "for", 0, "for how long the standing grant is good; 8h unless said, at most 720h")
	set.StringVar(&f.resource, "resource", "", "`pattern` of the resources it is good for; this one alone unless said")
	set.Float64Var(&f.maxCost, "max-cost", 0, "the most that a call may cost; what this one does unless said")
	set.StringArrayVar(&f.bounds, "bound", nil, "a member of the parameters that may differ: 'amount<=100', 'amount>=1', 'note=any'; may be given again")
}

// terms are what the flags say; nil: nothing.
func (f *standingFlags) terms() (*approvalv1.Standing, error) {
	if f.set == nil {
		return nil, nil //nolint:nilnil // There are none.
	}
	if !f.set.Changed("standing") {
		for _, name := range []string{"for", "resource", "max-cost", "bound"} {
			if f.set.Changed(name) {
				return nil, fmt.Errorf("--%s is of a standing grant; say with --standing for how many calls", name)
			}
		}
		return nil, nil //nolint:nilnil // There are none.
	}
	out := &approvalv1.Standing{Uses: f.uses, Resource: f.resource, MaxCost: f.maxCost}
	if f.set.Changed("for") {
		out.Within = durationpb.New(f.within)
	}
	for _, text := range f.bounds {
		if err := addBound(out, text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addBound reads one bound. Two about one member are one.
func addBound(out *approvalv1.Standing, text string) error {
	at := strings.LastIndexAny(text, "<>=")
	if at < 1 {
		return boundError(text)
	}
	name, value := text[:at], strings.TrimSpace(text[at+1:])
	sign := text[at : at+1]
	if last := name[len(name)-1]; sign == "=" && (last == '<' || last == '>') {
		name, sign = name[:len(name)-1], string(last)+"="
	}
	if name = strings.TrimSpace(name); name == "" {
		return boundError(text)
	}
	i := slices.IndexFunc(out.GetBounds(), func(b *approvalv1.Bound) bool { return b.GetName() == name })
	if i < 0 {
		i = len(out.GetBounds())
		out.Bounds = append(out.Bounds, &approvalv1.Bound{Name: name})
	}
	b := out.GetBounds()[i]
	if sign == "=" && value == "any" {
		b.Any = true
		return nil
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return boundError(text)
	}
	switch sign {
	case "<=":
		b.Max = &n
	case ">=":
		b.Min = &n
	default:
		return boundError(text)
	}
	return nil
}

func boundError(text string) error {
	return errors.New("--bound " + visible(text) + " is no bound; write NAME<=NUMBER, NAME>=NUMBER or NAME=any")
}

// standing prints what a yes allows besides.
func (p *printer) standing(t *approvalv1.Standing, a *approvalv1.Approval) {
	if t == nil {
		return
	}
	within, resource := "8h", t.GetResource()
	if t.GetWithin() != nil {
		within = t.GetWithin().AsDuration().String()
	}
	if resource == "" {
		resource = a.GetResource()
	}
	p.printf("\n%s\n", p.paint(bold, "And in future, without asking"))
	p.row("calls", strconv.FormatUint(uint64(t.GetUses()), 10)+" more like it, within "+within)
	p.row("resource", resource)
	if t.GetMaxCost() > 0 {
		p.row("cost", "at most "+strconv.FormatFloat(t.GetMaxCost(), 'g', -1, 64))
	}
	p.bounds(t.GetBounds())
}

func (p *printer) bounds(list []*approvalv1.Bound) {
	for _, b := range list {
		p.row("may differ", boundText(b))
	}
	p.row("the rest", "of the parameters, agent, subject, action and tool have to be as they are")
}

func boundText(b *approvalv1.Bound) string {
	text := b.GetName()
	if b.GetAny() {
		return text + ", whatever it is"
	}
	if b.Min != nil {
		text += " >= " + strconv.FormatFloat(b.GetMin(), 'g', -1, 64)
	}
	if b.Max != nil {
		text += " <= " + strconv.FormatFloat(b.GetMax(), 'g', -1, 64)
	}
	return text
}
