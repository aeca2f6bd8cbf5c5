// SPDX-License-Identifier: GPL-3.0-or-later

// Reads dashboards as Grafana's own types have them, and says each key that they do not know or lack, each value of
// another type, and each word that is none of those that its type names.
//
//	dashboards SOURCE FILE...    SOURCE: where the module of these types is, since words are named in its source alone
package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

const module = "github.com/grafana/grafana-foundation-sdk/go/"

// words has the constants of a package by their type: as "dashboard.VariableSort" -> "0", "1"...
type words struct {
	source string
	of     map[string]map[string]bool
}

// named is what a type has names for, nil where it has none.
func (known *words) named(kind reflect.Type) map[string]bool {
	folder := strings.TrimPrefix(kind.PkgPath(), module)
	if kind.PkgPath() == folder {
		return nil
	}
	if _, read := known.of[folder]; !read {
		known.of[folder] = map[string]bool{}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(known.source, folder, "types_gen.go"), nil, 0)
		if err != nil {
			panic(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			spec, ok := node.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			literal, isLiteral := spec.Values[0].(*ast.BasicLit)
			of, isNamed := spec.Type.(*ast.Ident)
			if isLiteral && isNamed {
				name := folder + "." + of.Name
				if known.of[name] == nil {
					known.of[name] = map[string]bool{}
				}
				known.of[name][strings.Trim(literal.Value, `"`)] = true
			}
			return true
		})
	}
	return known.of[folder+"."+kind.Name()]
}

// look goes through a value, and says the words that have no name.
func (known *words) look(where string, value reflect.Value) (wrong []string) {
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !value.IsNil() {
			return known.look(where, value.Elem())
		}
	case reflect.Struct:
		for number := range value.NumField() {
			name, _, _ := strings.Cut(value.Type().Field(number).Tag.Get("json"), ",")
			wrong = append(wrong, known.look(path.Join(where, name), value.Field(number))...)
		}
	case reflect.Slice:
		for number := range value.Len() {
			wrong = append(wrong, known.look(fmt.Sprintf("%s/%d", where, number), value.Index(number))...)
		}
	case reflect.String, reflect.Int64:
		if named := known.named(value.Type()); len(named) > 0 && !named[fmt.Sprint(value.Interface())] {
			wrong = append(wrong, fmt.Sprintf("%s: %v is none of its words", where, value.Interface()))
		}
	}
	return wrong
}

// said are the lines of an error; one of no lines is none.
func said(err error) []string {
	if err == nil || err.Error() == "" {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func read(file string, known *words) []string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return said(err)
	}
	strict, board := dashboard.Dashboard{}, dashboard.Dashboard{}
	wrong := said(strict.UnmarshalJSONStrict(raw))
	// The strict one takes an error of no lines for one, and leaves panels out.
	if err := json.Unmarshal(raw, &board); err != nil {
		return append(wrong, said(err)...)
	}
	wrong = append(wrong, said(board.Validate())...)
	for number, panel := range board.Panels {
		if panel.Panel == nil {
			continue // a row
		}
		// Of another kind nothing is known here, and what is in it would not be looked at.
		if _, ok := cog.NewRuntime().ConfigForPanelcfgVariant(panel.Panel.Type); !ok {
			wrong = append(wrong, fmt.Sprintf("panels/%d: there is no panel %s", number, panel.Panel.Type))
		}
	}
	return append(wrong, known.look("", reflect.ValueOf(board))...)
}

func main() {
	runtime := cog.NewRuntime()
	runtime.RegisterPanelcfgVariant(stat.VariantConfig())
	runtime.RegisterPanelcfgVariant(timeseries.VariantConfig())
	runtime.RegisterDataqueryVariant(prometheus.VariantConfig())
	known := &words{source: os.Args[1], of: map[string]map[string]bool{}}
	status := 0
	for _, file := range os.Args[2:] {
		for _, line := range read(file, known) {
			fmt.Printf("%s: %s\n", filepath.Base(file), line)
			status = 1
		}
	}
	os.Exit(status)
}
