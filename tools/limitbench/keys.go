package main

import (
	"fmt"
	"math/rand/v2"
)

// keySpace says which agents are asked about.
type keySpace string

const (
	hot     keySpace = "hot"     // always the same one
	zipf    keySpace = "zipf"    // one of 100,000, the first ones far more often
	uniform keySpace = "uniform" // any of 1,000,000
)

const (
	zipfAgents    = 100_000
	zipfExponent  = 1.1
	uniformAgents = 1_000_000
)

// picker draws the agents of one caller; the same seed draws the same ones.
func (k keySpace) picker(seed uint64) (func() int, error) {
	random := rand.New(rand.NewPCG(seed, 0x6b656c706965))
	switch k {
	case hot:
		return func() int { return 0 }, nil
	case zipf:
		z := rand.NewZipf(random, zipfExponent, 1, zipfAgents-1)
		return func() int { return int(z.Uint64()) }, nil
	case uniform:
		return func() int { return random.IntN(uniformAgents) }, nil
	}
	return nil, fmt.Errorf("there are no keys %q", k)
}
