package policy

import (
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// conditionCost is what one evaluation may cost, in CEL's units: about 3,000
// rounds of a loop with one comparison in it.
const conditionCost = 20_000

// costs prices the calls of an expression by the size of what they get. CEL's
// own prices go by the types known at compile time, and parameters and context
// have none: to CEL, comparing two large maps costs 1.
type costs struct{}

// CallCost implements interpreter.ActualCostEstimator. Nil leaves the price to CEL.
func (costs) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	total := uint64(1)
	switch function {
	case overloads.Matches, overloads.Contains:
		return nil // these have one type of argument each, and CEL knows their price
	case operators.Equals, operators.NotEquals, operators.In, operators.OldIn:
		for _, arg := range args {
			total += weight(arg)
		}
	default:
		for _, arg := range args {
			total += textWeight(arg)
		}
		total += textWeight(result) + timeCost(function, len(args))
	}
	if types.IsError(result) {
		total += errorCost
	}
	return &total
}

const (
	// errorCost is what wording an error costs.
	errorCost = 20
	// parseCost is what reading a time or duration costs, and zoneCost what
	// finding a time zone does.
	parseCost, zoneCost = 50, 500
)

// timeCost is what a function of times costs besides its texts.
func timeCost(function string, args int) uint64 {
	switch {
	case function == overloads.TypeConvertTimestamp || function == overloads.TypeConvertDuration:
		return parseCost
	case isZoned(function, args):
		return zoneCost
	default:
		return 0
	}
}

// isZoned tells whether a call is that of a time's part in a time zone.
func isZoned(function string, args int) bool {
	switch function {
	case overloads.TimeGetFullYear, overloads.TimeGetMonth, overloads.TimeGetDayOfYear, overloads.TimeGetDayOfMonth,
		overloads.TimeGetDate, overloads.TimeGetDayOfWeek, overloads.TimeGetHours, overloads.TimeGetMinutes,
		overloads.TimeGetSeconds, overloads.TimeGetMilliseconds:
		return args == 2
	default:
		return false
	}
}

// bytesPerCost is how much of a text costs 1, as in CEL.
const bytesPerCost = 10

func textWeight(v ref.Val) uint64 {
	switch text := v.(type) {
	case types.String:
		return uint64(len(text)) / bytesPerCost
	case types.Bytes:
		return uint64(len(text)) / bytesPerCost
	default:
		return 0
	}
}

// weight is the size of a value with all that is in it.
func weight(v ref.Val) uint64 {
	switch v.(type) {
	case traits.Mapper, traits.Lister:
		return nativeWeight(v.Value(), v)
	default:
		return textWeight(v)
	}
}

// nativeWeight is the weight of what a container was made of.
func nativeWeight(native any, container ref.Val) uint64 {
	total := uint64(1)
	switch value := native.(type) {
	case map[string]any:
		for key, item := range value {
			total += uint64(len(key))/bytesPerCost + nativeWeight(item, nil)
		}
	case []any:
		for _, item := range value {
			total += nativeWeight(item, nil)
		}
	case []ref.Val:
		for _, item := range value {
			total += 1 + weight(item)
		}
	case string:
		total += uint64(len(value)) / bytesPerCost
	default:
		if sized, ok := container.(traits.Sizer); ok {
			if n, ok := sized.Size().(types.Int); ok && n > 0 {
				total += uint64(n)
			}
		}
	}
	return total
}
