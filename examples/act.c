/* Ask for an action from C, with libcurl.
 *
 *   cc -Wall -Wextra -Werror -o act examples/act.c -lcurl && ./act http://127.0.0.1:8000
 *
 * One handle is kept for all calls, and with it the connection. An answer is used only if it echoes
 * the seq of its own request.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct answer {
    char text[4096];
    size_t length;
};

static size_t take(char *data, size_t size, size_t count, void *into) {
    struct answer *answer = into;
    size_t length = size * count;
    /* More than any answer: libcurl ends the transfer. */
    if (answer->length + length >= sizeof answer->text) return 0;
    memcpy(answer->text + answer->length, data, length);
    answer->length += length;
    answer->text[answer->length] = '\0';
    return length;
}

/* Return the number after a name in the answer, or the fallback where there is none. */
static long number(const char *text, const char *name, long fallback) {
    const char *match = strstr(text, name);
    return match ? strtol(match + strlen(name), NULL, 10) : fallback;
}

/* Return the action for a state, or -1 if the service gave none in time. */
static long act(CURL *curl, const double state[4], long seq) {
    char body[256];
    struct answer answer = {.length = 0};
    long status = 0;
    snprintf(body, sizeof body, "{\"state\":[%.9g,%.9g,%.9g,%.9g],\"seq\":%ld}",
             state[0], state[1], state[2], state[3], seq);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    CURLcode code = curl_easy_perform(curl);
    if (code != CURLE_OK) {
        fprintf(stderr, "%s\n", curl_easy_strerror(code));
        return -1;
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 || number(answer.text, "\"seq\":", -1) != seq) {
        fprintf(stderr, "status %ld: %s\n", status, answer.text);
        return -1;
    }
    return number(answer.text, "\"action\":", -1);
}

int main(int count, char **arguments) {
    const double states[2][4] = {{0, 0, 0.05, 0}, {0, 0, -0.05, 0}};
    char url[512];
    snprintf(url, sizeof url, "%s/act", count > 1 ? arguments[1] : "http://127.0.0.1:8000");
    CURL *curl = curl_easy_init();
    if (!curl) return 1;
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 1000L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    int failed = 0;
    for (long seq = 0; seq < 100; seq++) {
        long action = act(curl, states[seq % 2], seq);
        if (seq < 2) printf("action %ld\n", action);
        failed += action < 0;
    }
    printf("%d of 100 calls failed\n", failed);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return failed != 0;
}
