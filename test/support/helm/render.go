// Renders a chart's template as Helm would, with those of Helm's functions that the chart uses. Values and files come as JSON on
// standard input, and YAML is written as JSON, which is YAML. For machines without the helm command.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"text/template"
)

type object = map[string]any

type files map[string]string

func (f files) Get(name string) string { return f[name] }

func mergeOverwrite(target object, source object) object {
	for key, value := range source {
		inner, isObject := value.(object)
		existing, exists := target[key].(object)
		if isObject && exists {
			mergeOverwrite(existing, inner)
		} else {
			target[key] = value
		}
	}
	return target
}

func main() {
	var input struct {
		Template string
		Values   object
		Files    files
		Chart    object
	}
	must(json.NewDecoder(os.Stdin).Decode(&input))
	functions := template.FuncMap{
		"fromYaml": func(text string) object {
			var value object
			must(json.Unmarshal([]byte(text), &value))
			return value
		},
		"toYaml": func(value any) string {
			text, err := json.Marshal(value)
			must(err)
			return string(text)
		},
		"mergeOverwrite": mergeOverwrite,
		"set":            func(target object, key string, value any) object { target[key] = value; return target },
		"dict": func(pairs ...any) object {
			result := object{}
			for at := 0; at < len(pairs); at += 2 {
				result[pairs[at].(string)] = pairs[at+1]
			}
			return result
		},
		"default": func(fallback any, value any) any {
			if value == nil || value == "" {
				return fallback
			}
			return value
		},
		"sha256sum": func(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) },
	}
	parsed := template.Must(template.New("chart").Funcs(functions).Option("missingkey=error").Parse(input.Template))
	must(parsed.Execute(os.Stdout, object{"Values": input.Values, "Files": input.Files, "Chart": input.Chart}))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
