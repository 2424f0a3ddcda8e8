"""Invented names: syllables with their readings, put together by `idhub.demo.sample`."""

from typing import Final

_SURNAMES = """
王wang 李li 张zhang 刘liu 陈chen 杨yang 黄huang 赵zhao 吴wu 周zhou 徐xu
孙sun 马ma 朱zhu 胡hu 郭guo 何he 林lin 罗luo 高gao
郑zheng 梁liang 谢xie 宋song 唐tang 许xu 韩han 冯feng 邓deng 曹cao
彭peng 曾zeng 肖xiao 田tian 董dong 袁yuan 潘pan 于yu
蒋jiang 蔡cai 余yu 杜du 叶ye 程cheng 苏su 魏wei 吕lv 丁ding 任ren 沈shen 单shan 欧阳ouyang 司马sima 诸葛zhuge
"""
_SYLLABLES = """
伟wei 芳fang 娜na 敏min 静jing 强qiang 磊lei 军jun 洋yang 勇yong 艳yan
杰jie 娟juan 涛tao 明ming 超chao 霞xia 平ping 刚gang
桂gui 英ying 华hua 玉yu 兰lan 红hong 建jian 文wen 志zhi 海hai 国guo
春chun 梅mei 丽li 鹏peng 宇yu 浩hao 欣xin 怡yi 佳jia
雨yu 晨chen 思si 梦meng 雪xue 婷ting 俊jun 凯kai 博bo 瑞rui 嘉jia
睿rui 子zi 涵han 悦yue 可ke 安an 宁ning 远yuan 航hang
"""
_GERMAN_GIVEN = """
Anna Jürgen Sabine Lukas Jana Matthias Katrin Björn Heike Stefan
Ulrike Tobias Franziska Jörg Annika Felix Grete Niklas
Lena Moritz Käthe Sören Marlene Florian Antje Henrik Silke Dominik Wiebke Torsten
"""
_GERMAN_SURNAMES = """
Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz
Hoffmann Schäfer Koch Bauer Richter Klein Wolf Schröder
Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Schmitt Werner Krause Lehmann Köhler Weiß Groß Böhm
"""
_ENGLISH_GIVEN = """
James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth
William Barbara Richard Susan Joseph Jessica Thomas
Sarah Charles Karen Daniel Nancy Matthew Lisa Anthony Betty Mark Sandra Steven Ashley
"""
_ENGLISH_SURNAMES = """
Smith Johnson Williams Brown Jones Garcia Miller Davis Rodriguez
Martinez Wilson Anderson Taylor Moore Jackson Martin Lee
Thompson White Harris Clark Lewis Robinson Walker Young Allen King Wright O'Neill Hill-Green
"""


def _with_readings(text: str) -> tuple[tuple[str, str], ...]:
    """Split words such as `王wang` into characters and reading."""
    found = []
    for word in text.split():
        reading = word.lstrip("".join(char for char in word if not char.isascii()))
        found.append((word.removesuffix(reading), reading))
    return tuple(found)


CHINESE_SURNAMES: Final = _with_readings(_SURNAMES)
CHINESE_SYLLABLES: Final = _with_readings(_SYLLABLES)
GERMAN_GIVEN: Final = tuple(_GERMAN_GIVEN.split())
GERMAN_SURNAMES: Final = tuple(_GERMAN_SURNAMES.split())
ENGLISH_GIVEN: Final = tuple(_ENGLISH_GIVEN.split())
ENGLISH_SURNAMES: Final = tuple(_ENGLISH_SURNAMES.split())
