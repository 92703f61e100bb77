package slack

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/slack-go/slack"
)

// Card is an approval as people in a channel see it. Its texts have been made
// visible: nothing in them is hidden, turns the order of others, or ends a line;
// what is all the same is replaced. All are shown as plain text.
type Card struct {
	ID, Digest string
	// Pending says that it waits for humans, Buttons that it may be decided here, if
	// nothing has to be cut for want of room.
	Pending, Buttons bool
	// State is in words: "pending", "approved by ann@example.com".
	State string

	Risk, Action, Agent, Owner, Subject, Resource string
	// Needs are the rules with what each still needs.
	Needs []string
	// Known are the other facts that the gateway established, Said what the agent
	// says: nobody has verified it.
	Known, Said []Fact
	// Why is the reason of whoever ended it, in his words.
	Why       string
	ExpiresAt time.Time
}

// Fact is a name and a value.
type Fact struct{ Name, Value string }

// How much Slack takes, in characters, and how much of it one value may have.
const (
	maxHeader = 150
	maxText   = 3000
	maxValue  = 700
	maxShort  = 100
	maxFields = 10
	digestHas = 12
)

// Actions of the buttons.
const (
	// ActionApprove is a yes.
	ActionApprove = "kelpie_approve"
	// ActionDeny is a no.
	ActionDeny = "kelpie_deny"
)

// message is a card as Slack takes it, with buttons if there is a value for them.
func message(c *Card, value string) []slack.MsgOption {
	return []slack.MsgOption{
		// What notifications show: no text of an agent's.
		slack.MsgOptionText("Approval "+c.ID+": "+plainly(c.State, maxShort), true),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl(), slack.MsgOptionDisableMarkdown(),
		slack.MsgOptionBlocks(Blocks(c, value)...),
	}
}

// Blocks is a card in Block Kit, with buttons if there is a value for them.
func Blocks(c *Card, value string) []slack.Block {
	title := "Approval " + c.State
	if c.Pending {
		title = "Approval needed"
	}
	blocks := []slack.Block{
		slack.NewHeaderBlock(plain(plainly(fmt.Sprintf("%s: %s (risk %s)", title, plainly(c.Action, maxShort), c.Risk), maxHeader))),
		slack.NewSectionBlock(nil, fields(c), nil),
	}
	shown := whole(c)
	if len(c.Known) > 0 {
		text, all := facts("The gateway says", "", c.Known, c.ID)
		shown = shown && all
		blocks = append(blocks, slack.NewSectionBlock(plain(text), nil, nil))
	}
	if len(c.Said) > 0 {
		text, all := facts("The agent says (unverified: its own words, nobody checked them)", "| ", c.Said, c.ID)
		shown = shown && all
		blocks = append(blocks, slack.NewDividerBlock(), slack.NewSectionBlock(plain(text), nil, nil))
	}
	if c.Why != "" {
		blocks = append(blocks, slack.NewSectionBlock(plain("Reason: "+plainly(c.Why, maxValue)), nil, nil))
	}
	blocks = append(blocks, slack.NewContextBlock("", plain(about(c))))
	switch {
	case !c.Pending:
	case value != "" && shown:
		approve := slack.NewButtonBlockElement(ActionApprove, value, plain("Approve")).WithStyle(slack.StylePrimary)
		deny := slack.NewButtonBlockElement(ActionDeny, value, plain("Deny")).WithStyle(slack.StyleDanger)
		blocks = append(blocks, slack.NewActionBlock("kelpie", approve, deny),
			slack.NewContextBlock("", plain("All of it: kelpie approvals show "+c.ID)))
	default:
		blocks = append(blocks, slack.NewSectionBlock(plain("Not decided here. Look at all of it, and decide, with: kelpie approvals show "+c.ID), nil, nil))
	}
	return blocks
}

// whole tells whether what is asked is shown without a cut: nobody says yes here to
// what he cannot see here.
func whole(c *Card) bool {
	for _, text := range [...]string{c.Agent, c.Subject, c.Action, c.Resource} {
		if utf8.RuneCountInString(text) > maxValue {
			return false
		}
	}
	return utf8.RuneCountInString(c.Action) <= maxShort
}

func about(c *Card) string {
	digest := c.Digest
	if len(digest) > digestHas {
		digest = digest[:digestHas]
	}
	text := c.ID + "  digest " + digest
	if c.Pending {
		text += "  expires " + c.ExpiresAt.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return text
}

func fields(c *Card) []*slack.TextBlockObject {
	all := []Fact{
		{"Agent", c.Agent}, {"Owner", c.Owner}, {"Acting for", c.Subject}, {"Action", c.Action}, {"Resource", c.Resource},
	}
	if all[2].Value == "" {
		all[2].Value = "nobody is named"
	}
	for _, need := range c.Needs {
		all = append(all, Fact{"Rule", need})
	}
	var out []*slack.TextBlockObject
	for i, f := range all {
		if i == maxFields-1 && len(all) > maxFields {
			out = append(out, plain(fmt.Sprintf("Rules\nand %d more", len(all)-i)))
			break
		}
		if f.Value != "" {
			out = append(out, plain(f.Name+"\n"+plainly(f.Value, maxValue)))
		}
	}
	return out
}

// facts is a block of facts under a title, each on a line of its own. It says how
// many are left out; all tells whether none are, nor any is cut.
func facts(title, mark string, list []Fact, id string) (text string, all bool) {
	var out strings.Builder
	out.WriteString(title)
	used := utf8.RuneCountInString(title)
	const room = maxText - 200 // For the last line.
	all = true
	for i, f := range list {
		all = all && utf8.RuneCountInString(f.Name) <= maxValue && utf8.RuneCountInString(f.Value) <= maxValue
		line := "\n" + mark + plainly(f.Name, maxValue) + " = " + plainly(f.Value, maxValue)
		n := utf8.RuneCountInString(line)
		if used+n > room {
			fmt.Fprintf(&out, "\n%d more are not shown here: kelpie approvals show %s", len(list)-i, id)
			return out.String(), false
		}
		used += n
		out.WriteString(line)
	}
	return out.String(), all
}

// plainly cuts a text to so many characters, and says so; what could still end a
// line or turn the order of others is replaced.
func plainly(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(text, string(utf8.RuneError)))
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	const note = "... (cut)"
	return string([]rune(text)[:most-len(note)]) + note
}

// plain is a text that Slack shows as it stands: no markup, no names, no emoji.
func plain(text string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.PlainTextType, text, false, false)
}
